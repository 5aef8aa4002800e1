"""An image shown from memory: names, attributes, links, and bytes that are complete or an error."""

from __future__ import annotations

import errno
import inspect
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fuse_fs.paths
from fuse_fs.answers import errno_of, is_failure
from fuse_fs.errors import (
    IsADirectory,
    NoSuchAttribute,
    NoSuchEntry,
    NotADirectory,
    NotAFile,
    NotASymlink,
    ReadIncomplete,
    Refusal,
)
from fuse_fs.paths import TreeByPath
from fuse_fs.tree import ImageTree
from rafs.bootstrap import Bootstrap
from tests.support.images import Image, image_of
from tests.support.trees import (
    Entry,
    char_device,
    directory,
    expected,
    fifo,
    file,
    hardlink,
    socket,
    symlink,
    tree,
)

CHUNK = 4096


@dataclass
class Memory:
    """The blobs of an image in memory; writes down what is asked for."""

    image: Image
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    missing: int = 0  # bytes to leave out at the end of every answer

    def read(self, blob_index: int, offset: int, size: int, until: float | None = None) -> bytes:
        self.asked.append((blob_index, offset, size))
        content = self.image.devices[self.image.blobs[blob_index].id]
        return content[offset : offset + size - self.missing]

    def read_into(self, into: memoryview, blob_index: int, offset: int, *, from_disk: bool) -> bool:
        if from_disk:
            into[:] = self.read(blob_index, offset, len(into))
        return from_disk

    def is_local(self, blob_index: int, offset: int, size: int) -> bool:
        self.asked.append((blob_index, offset, size))
        return not self.missing


def shown_by_number(root: Entry, *, missing: int = 0) -> tuple[ImageTree, Memory]:
    image = image_of(root, chunk_size=CHUNK, batch_size=4 * CHUNK)
    memory = Memory(image, missing=missing)
    return ImageTree(Bootstrap(image.bootstrap), memory), memory


def shown(root: Entry, *, missing: int = 0) -> tuple[TreeByPath, Memory]:
    image, memory = shown_by_number(root, missing=missing)
    return TreeByPath(image), memory


EVERYTHING = tree(
    file(b"plain", b"text", mode=0o4755, uid=7, gid=8, mtime=1234, mtime_ns=5),
    file(b"empty"),
    file(b"\xff\xfe not UTF-8", b"x" * 10_000, xattrs={b"user.a": b"1", b"security.b": b"\0\xff"}),
    hardlink(b"second", b"/plain"),
    symlink(b"link", b"directory/\xfc"),
    fifo(b"fifo"),
    socket(b"socket"),
    char_device(b"device", 300, 70_000),
    directory(b"directory", file(b"\xfc", os.urandom(20_000)), directory(b"deep", file(b"er")), mode=0o1777),
    mtime=-5,
    mtime_ns=3,
)


def test_shows_every_name_with_every_attribute() -> None:
    image, _ = shown(EVERYTHING)
    wanted = expected(EVERYTHING)
    for path, entry in wanted.items():
        inode = image.inode(path)
        assert (inode.mode, inode.uid, inode.gid) == (entry.mode, entry.uid, entry.gid), path
        assert (inode.mtime, inode.mtime_ns, inode.nlink) == (entry.mtime, entry.mtime_ns, entry.nlink), path
        assert (os.major(inode.rdev), os.minor(inode.rdev)) == entry.rdev, path
        assert {name: image.xattr(path, name) for name in image.xattr_names(path)} == entry.xattrs
        assert inode.nid == image.inode(entry.inode_of).nid
        if stat.S_ISLNK(inode.mode):
            assert image.symlink_target(path) == entry.target
        if stat.S_ISREG(inode.mode):
            assert image.read(path, 0, 1 << 20) == entry.content
        if stat.S_ISDIR(inode.mode):
            names = {name: (nid, bits) for name, nid, bits in image.entries(path)}
            prefix = path.rstrip(b"/") + b"/"
            children = {other[len(prefix) :] for other in wanted if other.startswith(prefix)} - {b""}
            assert set(names) == {b".", b".."} | {name for name in children if b"/" not in name}
            for name, (nid, bits) in names.items():
                if name not in (b".", b".."):
                    child = image.inode(prefix + name)
                    assert (nid, bits) == (child.nid, stat.S_IFMT(child.mode))


@pytest.mark.parametrize(
    ("ask", "refusal", "number"),
    [
        (lambda image: image.inode(b"/gone"), NoSuchEntry, errno.ENOENT),
        (lambda image: image.inode(b"/directory/gone/deeper"), NoSuchEntry, errno.ENOENT),
        (lambda image: image.inode(b"/plain/below"), NotADirectory, errno.ENOTDIR),
        (lambda image: list(image.entries(b"/plain")), NotADirectory, errno.ENOTDIR),
        (lambda image: image.symlink_target(b"/plain"), NotASymlink, errno.EINVAL),
        (lambda image: image.read(b"/directory", 0, 1), IsADirectory, errno.EISDIR),
        (lambda image: image.read(b"/fifo", 0, 1), NotAFile, errno.EINVAL),
        (lambda image: image.xattr(b"/plain", b"user.none"), NoSuchAttribute, errno.ENODATA),
    ],
)
def test_questions_with_the_answer_no_have_an_errno_of_their_own(
    ask: Callable[[TreeByPath], object], refusal: type[Refusal], number: int
) -> None:
    image, _ = shown(EVERYTHING)
    with pytest.raises(refusal) as refused:
        ask(image)
    assert errno_of(refused.value) == number
    assert not is_failure(refused.value)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "window"), MemoryError(), ValueError(), SystemExit()])
def test_every_failure_is_an_input_output_error(error: BaseException) -> None:
    assert errno_of(error) == 5
    assert is_failure(error)


def test_neighbouring_chunks_are_read_in_one_go() -> None:
    image, memory = shown(tree(file(b"long", os.urandom(8 * CHUNK))))
    image.read(b"/long", 100, 5 * CHUNK)
    assert [(blob, size) for blob, _, size in memory.asked] == [(0, 5 * CHUNK)]


def test_shared_and_scattered_chunks_come_in_file_order() -> None:
    first, second = os.urandom(CHUNK), os.urandom(CHUNK)
    content = second + first + first + second + b"tail"
    image, memory = shown(tree(file(b"a", first + second), file(b"b", content)))
    assert image.read(b"/b", 0, 1 << 20) == content
    assert len(memory.asked) > 1


def test_a_file_over_two_blobs_is_joined() -> None:
    image, memory = shown(tree(file(b"a", os.urandom(CHUNK)), file(b"b", b"of the second", blob=1)))
    assert image.read(b"/b", 3, 100) == b"the second"
    assert memory.asked[-1][0] == 1


def test_reading_at_and_after_the_end_asks_for_nothing() -> None:
    image, memory = shown(tree(file(b"f", b"12345")))
    assert image.read(b"/f", 5, 10) == b"" == image.read(b"/f", 1 << 40, 10)
    assert memory.asked == []


def test_a_short_answer_is_an_error_never_a_short_read() -> None:
    image, _ = shown(tree(file(b"f", b"12345")), missing=1)
    with pytest.raises(ReadIncomplete, match="got 4 bytes, expected 5"):
        image.read(b"/f", 0, 100)


@given(st.data())
def test_any_range_equals_the_source(data: st.DataObject) -> None:
    content = bytes(range(256)) * 100 + b"end"
    image, _ = RANDOM
    offset = data.draw(st.integers(0, len(content) + 10))
    size = data.draw(st.integers(1, len(content) + 10))
    assert image.read(b"/f", offset, size) == content[offset : offset + size]


RANDOM = shown(tree(file(b"f", bytes(range(256)) * 100 + b"end")))


def test_very_deep_paths_are_found_without_recursion() -> None:
    entry = file(b"f", b"deep")
    for _ in range(400):
        entry = directory(b"d", entry)
    image, _ = shown(tree(entry))
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert image.read(b"/d" * 400 + b"/f", 0, 9) == b"deep"
    finally:
        sys.setrecursionlimit(before)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_fs.paths, "REMEMBERED_PATHS", 4)
    names = [b"%d" % number for number in range(50)]
    image, _ = shown(tree(*(file(name, name) for name in names)))
    for _ in range(2):
        assert [image.read(b"/" + name, 0, 9) for name in names] == names
        assert len(image._known) + len(image._known_before) <= 8


def test_space_counts_the_blobs_and_the_inodes() -> None:
    image, _ = shown(tree(file(b"f", os.urandom(10 * CHUNK)), file(b"g")))
    assert image.space().blocks > 10
    assert image.space().inodes == 3


def test_what_is_here_is_read_at_once_or_left_to_who_may_wait() -> None:
    content = os.urandom(3 * CHUNK)
    image, _ = shown_by_number(tree(file(b"f", content), file(b"empty", b"")))
    root = image.inode(image.root)
    inode, empty = (image.inode(image.lookup(root, name)) for name in (b"f", b"empty"))
    into = memoryview(bytearray(10 * CHUNK))
    assert image.read_into(into, inode, CHUNK + 1, from_disk=True) == 2 * CHUNK - 1
    assert into[: 2 * CHUNK - 1] == content[CHUNK + 1 :]
    assert image.read_into(into, inode, CHUNK + 1, from_disk=False) is None
    assert image.read_into(into, empty, 0, from_disk=True) is None
    assert image.read_into(into, root, 0, from_disk=True) is None
    assert [nid for nid, _ in image.first_reads.listed()] == [inode.nid]


def test_bytes_of_a_file_are_local_when_all_they_lie_in_are() -> None:
    content = os.urandom(3 * CHUNK)
    image, memory = shown(tree(file(b"f", content), file(b"empty", b"")))
    assert image.is_local(b"/f", CHUNK, 10 * CHUNK)
    ((_, _, size),) = memory.asked
    assert size == 2 * CHUNK  # to the file's end
    memory.missing = 1
    assert not image.is_local(b"/f", 0, 1)
    assert image.is_local(b"/f", 3 * CHUNK, 1) and image.is_local(b"/empty", 0, 1)
