"""Raw messages in, raw replies out, without a kernel: right answers, and an errno for whatever is odd."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_fs.answers import errno_of
from fuse_fs.operations import MAX_PAGES, Operations
from fuse_fs.protocol import (
    ATTR_OUT,
    CHANGES,
    DIRENT,
    DIRENT_PLUS,
    ENTRY_OUT,
    GETXATTR_IN,
    INIT_OUT,
    MAJOR,
    MINOR,
    READ_IN,
    ROOT_NODE,
    Feature,
    Request,
)
from tests.fuse_fs.test_tree import CHUNK, EVERYTHING, shown_by_number
from tests.support.trees import Entry, directory, expected, file, tree

NODE, ATTRIBUTES = 0, 6  # fields of ENTRY_OUT
INODE, SIZE, MTIME, MODE, LINKS, UID, DEVICE = 0, 1, 4, 9, 10, 11, 13  # of the attributes


class Kernel:
    """Asks as the kernel does; what is refused is minus its errno."""

    def __init__(self, root: Entry, *, missing: int = 0) -> None:
        self.operations = Operations(shown_by_number(root, missing=missing)[0])

    def ask(self, request: int, node: int = ROOT_NODE, body: bytes = b"") -> bytes | int:
        try:
            return self.operations.answer(request, node, memoryview(body))
        except Exception as error:  # noqa: BLE001 - as a session does
            return -errno_of(error)

    def content(self, request: int, node: int = ROOT_NODE, body: bytes = b"") -> bytes:
        answered = self.ask(request, node, body)
        assert isinstance(answered, bytes), f"{request} is refused: {answered}"
        return answered

    def node(self, path: bytes) -> int:
        node = ROOT_NODE
        for name in path.strip(b"/").split(b"/") if path != b"/" else []:
            node = ENTRY_OUT.unpack(self.content(Request.LOOKUP, node, name + b"\0"))[NODE]
            assert node, f"{path!r} is not there"
        return node

    def read(self, path: bytes, offset: int, size: int) -> bytes | int:
        return self.ask(Request.READ, self.node(path), reading(offset, size))

    def listing(self, node: int, size: int, *, plus: bool) -> dict[bytes, tuple[int, ...]]:
        """Each name with its record; asked for in pieces of *size* bytes."""
        record, request = (DIRENT_PLUS, Request.READDIRPLUS) if plus else (DIRENT, Request.READDIR)
        found: dict[bytes, tuple[int, ...]] = {}
        offset = 0
        while piece := self.content(request, node, reading(offset, size)):
            assert len(piece) <= size
            place = 0
            while place < len(piece):
                fields = record.unpack_from(piece, place)
                offset, length = fields[-3], fields[-2]
                name = piece[place + record.size : place + record.size + length]
                assert name not in found and len(name) == length
                found[name] = fields
                place += record.size + length + -length % 8
            assert place == len(piece)
        return found


def reading(offset: int, size: int) -> bytes:
    return READ_IN.pack(0, offset, size, 0, 0, 0, 0)


EVERY = Kernel(EVERYTHING)


def test_every_node_has_the_attributes_of_the_source() -> None:
    for path, entry in expected(EVERYTHING).items():
        node = EVERY.node(path)
        _, _, _, *found = ATTR_OUT.unpack(EVERY.content(Request.GETATTR, node))
        assert (found[MODE], found[UID], found[LINKS]) == (entry.mode, entry.uid, entry.nlink), path
        assert (found[MTIME], found[MTIME + 3]) == (entry.mtime, entry.mtime_ns), path
        assert (os.major(found[DEVICE]), os.minor(found[DEVICE])) == entry.rdev
        assert node == EVERY.node(entry.inode_of)
        if stat.S_ISREG(entry.mode):
            assert found[SIZE] == len(entry.content)
            assert EVERY.read(path, 0, 1 << 20) == entry.content
        if stat.S_ISLNK(entry.mode):
            assert EVERY.content(Request.READLINK, node) == entry.target


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("size", [400, 4096, 1 << 16])
def test_a_listing_is_the_same_however_it_is_cut(size: int, plus: bool) -> None:
    names = {b"%0*d" % (number % 40 + 1, number) for number in range(1000)}
    kernel = Kernel(tree(directory(b"many", *(file(name) for name in sorted(names)))))
    node = kernel.node(b"/many")
    found = kernel.listing(node, size, plus=plus)
    assert set(found) == names | {b".", b".."}
    if plus:
        for name in names:
            asked = ENTRY_OUT.unpack(kernel.content(Request.LOOKUP, node, name + b"\0"))
            assert found[name][: len(asked)] == asked
        assert found[b"."][NODE] == found[b".."][NODE] == 0


def test_listings_have_type_and_number_of_each_entry() -> None:
    for plus in (True, False):
        for name, fields in EVERY.listing(ROOT_NODE, 4096, plus=plus).items():
            if name not in (b".", b".."):
                _, _, _, *found = ATTR_OUT.unpack(EVERY.content(Request.GETATTR, EVERY.node(b"/" + name)))
                assert (fields[-4], fields[-1]) == (found[INODE], stat.S_IFMT(found[MODE]) >> 12)


def test_what_is_absent_is_said_in_a_form_the_kernel_remembers() -> None:
    answered = ENTRY_OUT.unpack(EVERY.content(Request.LOOKUP, ROOT_NODE, b"gone\0"))
    assert answered[NODE] == 0 and answered[2] > 86400


def test_a_node_is_found_again_by_number_alone() -> None:
    for path in (b"/", b"/plain", b"/directory/deep"):
        node = EVERY.node(path)
        assert ENTRY_OUT.unpack(EVERY.content(Request.LOOKUP, node, b".\0"))[NODE] == node
    deep = EVERY.node(b"/directory/deep")
    above = ENTRY_OUT.unpack(EVERY.content(Request.LOOKUP, deep, b"..\0"))[NODE]
    assert above == EVERY.node(b"/directory")
    assert ENTRY_OUT.unpack(EVERY.content(Request.LOOKUP, above, b"..\0"))[NODE] == ROOT_NODE


def test_extended_attributes_come_whole_or_say_how_long_they_are() -> None:
    node = EVERY.node(b"/\xff\xfe not UTF-8")
    names = b"security.b\0user.a\0"
    assert EVERY.content(Request.LISTXATTR, node, GETXATTR_IN.pack(100, 0)) == names
    assert EVERY.content(Request.LISTXATTR, node, GETXATTR_IN.pack(0, 0))[:4] == struct.pack("=I", len(names))
    assert EVERY.ask(Request.LISTXATTR, node, GETXATTR_IN.pack(5, 0)) == -errno.ERANGE
    asked = GETXATTR_IN.pack(100, 0)
    assert EVERY.content(Request.GETXATTR, node, asked + b"security.b\0") == b"\0\xff"
    assert EVERY.ask(Request.GETXATTR, node, asked + b"user.none\0") == -errno.ENODATA
    without = Kernel(tree(file(b"f")))
    assert without.ask(Request.GETXATTR, without.node(b"/f"), asked + b"user.a\0") == -errno.ENOSYS


def started(major: int, minor: int, offered: int) -> tuple[int, ...]:
    body = struct.pack("=IIII", major, minor, 131072, offered) + bytes(48)
    return INIT_OUT.unpack(EVERY.content(Request.INIT, 0, body))


def test_what_the_kernel_does_not_offer_is_not_taken_up() -> None:
    everything = (1 << 32) - 1
    major, minor, readahead, taken, *_, pages, _ = started(MAJOR, 45, everything)
    assert (major, minor, readahead, pages) == (MAJOR, MINOR, 131072, MAX_PAGES)
    assert taken & Feature.DO_READDIRPLUS and taken & Feature.CACHE_SYMLINKS
    assert not taken & 1 << 16  # WRITEBACK_CACHE
    assert started(MAJOR, 27, int(Feature.ASYNC_READ))[1:4] == (27, 131072, Feature.ASYNC_READ)
    assert started(MAJOR + 1, 0, everything)[:4] == (MAJOR, MINOR, 131072, 0)


def test_a_kernel_that_is_too_old_is_refused() -> None:
    assert EVERY.ask(Request.INIT, 0, struct.pack("=IIII", 7, 22, 0, 0)) == -errno.ENOSYS


def test_what_would_change_the_image_is_refused_and_the_rest_left_to_the_kernel() -> None:
    assert {EVERY.ask(request, ROOT_NODE, bytes(64)) for request in CHANGES} == {-errno.EROFS}
    left = (Request.OPEN, Request.OPENDIR, Request.FLUSH, Request.ACCESS, Request.INTERRUPT)
    for request in (*left, 52, 9999):
        assert EVERY.ask(request, ROOT_NODE, bytes(64)) == -errno.ENOSYS


@pytest.mark.parametrize("request_number", sorted({*Request} - CHANGES))
@given(node=st.integers(0, (1 << 64) - 1) | st.integers(0, 300), body=st.binary(max_size=80))
def test_any_message_gets_an_answer_or_an_errno(request_number: int, node: int, body: bytes) -> None:
    answered = EVERY.ask(request_number, node, body)
    assert isinstance(answered, bytes) or 0 < -answered < 200


@given(offset=st.integers(0, 30_000), size=st.integers(0, 30_000))
def test_any_range_equals_the_source(offset: int, size: int) -> None:
    assert RANGES.read(b"/f", offset, size) == CONTENT[offset : offset + size]


CONTENT = os.urandom(5 * CHUNK + 17)
RANGES = Kernel(tree(file(b"f", CONTENT)))


def test_a_reply_is_complete_or_an_error_never_short() -> None:
    short = Kernel(tree(file(b"f", b"12345")), missing=1)
    assert short.read(b"/f", 0, 100) == -errno.EIO
