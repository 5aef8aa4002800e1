"""The reader answers about any name and any byte of a tree, and ends on trees that do not."""

from __future__ import annotations

import random
import stat
from functools import cache

import pytest

from rafs.bootstrap import Bootstrap, Extent, Inode
from rafs.errors import FormatInvalid
from tests.support.bootstrap_edits import Editor, edited
from tests.support.images import Image, image_of
from tests.support.trees import block_device, directory, file, hardlink, symlink, tree

CHUNK = 4096
MTIME = -5


@cache
def _image() -> Image:
    names = [f"{number:04}-{'long' * (number % 9)}".encode() for number in range(900)]
    noise = random.Random(2)
    return image_of(
        tree(
            directory(b"names", *[file(name) for name in (b"!before the dots", b"\xff" * 255, *names)]),
            file(
                b"chunks", noise.randbytes(10 * CHUNK + 5), uid=1 << 20, gid=70_000, mtime=MTIME, mtime_ns=7
            ),
            symlink(b"link", b"t" * 4095),
            block_device(b"disk", 300, 70_000),
            file(
                b"attributes",
                xattrs={b"user.a": b"", b"security.capability": b"\0\1", b"trusted.t": b"v" * 3500},
            ),
            directory(b"d", hardlink(b"again", b"/chunks"), xattrs={b"system.posix_acl_default": b"acl"}),
        ),
        chunk_size=CHUNK,
    )


def _at(bootstrap: Bootstrap, path: bytes) -> Inode:
    inode = bootstrap.inode(bootstrap.root_nid)
    for name in path.split(b"/")[1:]:
        nid = bootstrap.lookup(inode, name)
        assert nid is not None, path
        inode = bootstrap.inode(nid)
    return inode


def test_every_walked_path_is_looked_up_to_the_same_inode() -> None:
    bootstrap = Bootstrap(_image().bootstrap)
    paths = list(bootstrap.walk())
    assert len(paths) == 1 + 902 + 7
    assert paths[0][0] == b"/"
    for path, inode in paths[1:]:
        assert _at(bootstrap, path) == inode


@pytest.mark.parametrize(
    "name", [b"", b"0000", b"0899", b"0899-long!", b"zzz", b"\0", b"\xff" * 254, b"\xff" * 256]
)
def test_a_name_that_is_not_there_is_none(name: bytes) -> None:
    bootstrap = Bootstrap(_image().bootstrap)
    assert bootstrap.lookup(_at(bootstrap, b"/names"), name) is None


def test_names_before_the_dots_and_of_255_bytes_are_found() -> None:
    bootstrap = Bootstrap(_image().bootstrap)
    folder = _at(bootstrap, b"/names")
    names = [name for name, _, _ in bootstrap.entries(folder)]
    assert names == sorted(names)
    assert names[:3] == [b"!before the dots", b".", b".."]
    assert bootstrap.lookup(folder, b".") == folder.nid
    assert bootstrap.lookup(folder, b"..") == bootstrap.root_nid
    assert bootstrap.lookup(folder, b"\xff" * 255) is not None


def test_attributes_are_whole() -> None:
    bootstrap = Bootstrap(_image().bootstrap)
    chunks = _at(bootstrap, b"/chunks")
    assert (chunks.uid, chunks.gid, chunks.mtime, chunks.mtime_ns, chunks.nlink) == (
        1 << 20,
        70_000,
        MTIME,
        7,
        2,
    )
    assert _at(bootstrap, b"/d/again") == chunks
    assert bootstrap.symlink_target(_at(bootstrap, b"/link")) == b"t" * 4095
    disk = _at(bootstrap, b"/disk")
    assert (stat.S_ISBLK(disk.mode), disk.rdev) == (True, 70_000 & 0xFF | 300 << 8 | (70_000 & ~0xFF) << 12)
    assert bootstrap.xattrs(_at(bootstrap, b"/attributes")) == {
        b"user.a": b"",
        b"security.capability": b"\0\1",
        b"trusted.t": b"v" * 3500,
    }
    assert bootstrap.xattrs(_at(bootstrap, b"/d")) == {b"system.posix_acl_default": b"acl"}
    assert bootstrap.xattrs(chunks) == {}


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, None, range(11)),
        (0, 0, range(0)),
        (0, 1, range(1)),
        (CHUNK - 1, CHUNK + 1, range(2)),
        (CHUNK, 2 * CHUNK, range(1, 2)),
        (10 * CHUNK + 4, 1 << 50, range(10, 11)),
        (10 * CHUNK + 5, 1 << 50, range(0)),
        (1 << 50, 1 << 51, range(0)),
    ],
)
def test_extents_of_a_range_are_those_that_overlap_it(start: int, stop: int | None, expected: range) -> None:
    bootstrap = Bootstrap(_image().bootstrap)
    whole = bootstrap.extents(_at(bootstrap, b"/chunks"))
    found = bootstrap.extents(_at(bootstrap, b"/chunks"), start, stop)
    assert found == [whole[index] for index in expected]


def test_extents_say_where_the_bytes_are() -> None:
    image = _image()
    bootstrap = Bootstrap(image.bootstrap)
    extents = bootstrap.extents(_at(bootstrap, b"/chunks"))
    assert [extent.file_offset for extent in extents] == list(range(0, 11 * CHUNK, CHUNK))
    assert [extent.size for extent in extents] == [CHUNK] * 10 + [5]
    device = image.devices[bootstrap.blobs[0].id]
    content = b"".join(device[extent.blob_offset : extent.blob_offset + extent.size] for extent in extents)
    assert content == random.Random(2).randbytes(10 * CHUNK + 5)
    assert isinstance(extents[0], Extent)


def test_what_is_asked_of_the_wrong_kind_is_a_typed_error() -> None:
    bootstrap = Bootstrap(_image().bootstrap)
    root, chunks = bootstrap.inode(bootstrap.root_nid), _at(bootstrap, b"/chunks")
    for ask in (
        lambda: bootstrap.lookup(chunks, b"x"),
        lambda: list(bootstrap.entries(chunks)),
        lambda: bootstrap.symlink_target(root),
        lambda: bootstrap.extents(root),
    ):
        with pytest.raises(FormatInvalid, match="is not a"):
            ask()


@pytest.mark.parametrize("nid", [-1, 0, 1 << 15, 1 << 63, 1 << 64])
def test_an_inode_that_does_not_exist_is_a_typed_error(nid: int) -> None:
    bootstrap = Bootstrap(_image().bootstrap)
    if nid == 0:
        assert not stat.S_IFMT(bootstrap.inode(nid).mode), "the block before the root is empty"
        return
    with pytest.raises(FormatInvalid, match=f"inode {nid}"):
        bootstrap.inode(nid)


def test_a_tree_that_contains_itself_ends() -> None:
    image = image_of(tree(directory(b"a", directory(b"b", directory(b"c")))))
    raw = edited(image.bootstrap, lambda e: e.dirent(b"/a/b", b"c", nid=e.inode_of(b"/a").nid))
    with pytest.raises(FormatInvalid, match="reached twice"):
        list(Bootstrap(raw).walk())


def test_a_path_without_end_is_refused() -> None:
    inner = directory(b"n" * 200)
    for _ in range(100):
        inner = directory(b"n" * 200, inner)
    bootstrap = Bootstrap(image_of(tree(inner)).bootstrap)
    with pytest.raises(FormatInvalid, match="nest too deeply"):
        list(bootstrap.walk())


def test_digests_come_by_chunk_index() -> None:
    image = _image()
    bootstrap = Bootstrap(image.bootstrap)
    assert bootstrap.chunk_digests(0) == bytes(image.blobs[0].digests)
    with pytest.raises(FormatInvalid, match="no blob 1"):
        bootstrap.chunk_digests(1)


def test_a_missing_row_of_the_chunk_table_is_said() -> None:
    def lose_a_row(editor: Editor) -> None:
        editor.row(0, chunk_index=1)
        editor.row(1, chunk_index=1)

    with pytest.raises(FormatInvalid, match="lacks some of its chunks"):
        Bootstrap(edited(_image().bootstrap, lose_a_row)).chunk_digests(0)


def test_a_memoryview_is_as_good_as_bytes() -> None:
    raw = _image().bootstrap
    assert list(Bootstrap(memoryview(raw)).walk()) == list(Bootstrap(raw).walk())
