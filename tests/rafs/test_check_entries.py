"""Both halves of every chunk entry are compared with the chunk info, for each file of the tree."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.bootstrap import Bootstrap
from rafs.check_entries import check_entries
from rafs.errors import FormatInvalid, RafsError
from tests.support.bootstrap_edits import Edit, Editor, edited
from tests.support.images import Image, image_of
from tests.support.nydus_vectors import Image as Vector
from tests.support.nydus_vectors import all_images
from tests.support.trees import directory, file, hardlink, tree

TWO_CHUNKS = b"a" * 65536 + b"b" * 100


@pytest.fixture(scope="module")
def image() -> Image:
    return image_of(
        tree(
            file(b"first", TWO_CHUNKS),
            file(b"empty"),
            directory(b"d", file(b"other", b"in another blob", blob=1), hardlink(b"again", b"/first")),
        )
    )


def _metas(image: Image) -> list[BlobMeta]:
    return [
        parse_blob_meta(blob.record(index), blob.cache_form(), bytes(blob.digests))
        for index, blob in enumerate(image.blobs)
    ]


def _entry(path: bytes, position: int, **changes: Any) -> Edit:
    return lambda editor: editor.chunk_entry(path, position, **changes)


def test_a_good_image_passes(image: Image) -> None:
    check_entries(Bootstrap(image.bootstrap), _metas(image))


@pytest.mark.parametrize("vector", all_images())
def test_images_of_nydus_pass(vector: Vector) -> None:
    check_entries(*vector.readable())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            _entry(b"/first", 0, block=16),
            "chunk 0 of blob 0, at block 16; that chunk has 65536 bytes at block 0",
        ),
        (_entry(b"/first", 0, index_low=1), "chunk 1 of blob 0, at block 0"),
        (_entry(b"/first", 1, index_low=0, block=0), "100 bytes at 65536"),
        (_entry(b"/first", 0, index_high=1), "chunk 65536 of blob 0, at block 0, do not exist"),
        (_entry(b"/d/other", 0, device=1), "chunk 0 of blob 0"),
        (_entry(b"/d/other", 0, device=0), "blob -1, at block 0, do not exist"),
        (_entry(b"/d/other", 0, device=200), "blob 199, at block 0, do not exist"),
        (lambda editor: editor.inode(b"/d/other", size=16), "16 bytes at 0"),
        (lambda editor: editor.inode(b"/d/other", size=1 << 40), "chunk entries up to"),
    ],
)
def test_an_entry_that_contradicts_the_chunk_info_is_refused(image: Image, edit: Edit, message: str) -> None:
    bootstrap = Bootstrap(edited(image.bootstrap, edit))
    with pytest.raises(FormatInvalid, match=message):
        check_entries(bootstrap, _metas(image))


def test_a_file_may_not_use_a_chunk_whose_digest_nobody_knows(image: Image) -> None:
    first, second = _metas(image)
    holed = BlobMeta(first.record, image.blobs[0].cache_form()[: first.record.ci_uncompressed_size],
                     bytes(image.blobs[0].digests), b"\0\1")  # fmt: skip
    with pytest.raises(FormatInvalid, match=r"100 bytes at 65536: .* they cannot be verified"):
        check_entries(Bootstrap(image.bootstrap), [holed, second])


def test_chunk_info_for_every_blob_is_needed(image: Image) -> None:
    with pytest.raises(FormatInvalid, match="chunk info of 1 blobs for a table of 2"):
        check_entries(Bootstrap(image.bootstrap), _metas(image)[:1])


def test_a_tree_that_does_not_end_is_refused(image: Image) -> None:
    root = Editor(image.bootstrap).inode_of(b"/").nid
    raw = edited(image.bootstrap, lambda editor: editor.dirent(b"/", b"d", nid=root))
    with pytest.raises(FormatInvalid, match="reached twice"):
        check_entries(Bootstrap(raw), _metas(image))


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_never_let_a_wrong_entry_pass(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(SMALL.bootstrap)
    inodes = Bootstrap(SMALL.bootstrap).header.meta_offset
    for at, value in changes:
        raw[inodes + at % (len(raw) - inodes)] = value
    metas = _metas(SMALL)
    try:
        bootstrap = Bootstrap(bytes(raw))
        check_entries(bootstrap, metas)
    except RafsError:
        return
    # By number: what a changed name leads to is not what is looked at here.
    seen, left = set[int](), [int(bootstrap.root_nid)]
    while left:
        inode = bootstrap.inode(left.pop())
        if inode.nid in seen:
            continue
        seen.add(inode.nid)
        left += bootstrap.children(inode) if stat.S_ISDIR(inode.mode) else ()
        for extent in bootstrap.extents(inode) if stat.S_ISREG(inode.mode) else ():
            chunk = metas[extent.blob_index].chunk(extent.chunk_index)
            assert (chunk.offset, chunk.size) == (extent.blob_offset, extent.size), inode


SMALL = image_of(
    tree(
        file(b"first", TWO_CHUNKS, xattrs={b"user.a": b"1"}),
        directory(
            b"d", *(file(b"%d" % number, b"x" * number) for number in range(20)), hardlink(b"l", b"/first")
        ),
    )
)
