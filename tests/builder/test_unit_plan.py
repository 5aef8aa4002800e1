"""In a converted image no chunk lies right behind the one that a file goes on from, in the same unit."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from builder.convert_options import ConvertOptions
from builder.hot.hot_blob import HotBlob
from tests.builder.layouts import Layout, Published, convert_layout
from tests.support.trees import directory, file, layer_tar, tree

CHUNK = 4096
OPTIONS = ConvertOptions(chunk_size=CHUNK, batch_size=16 * CHUNK)


def chunks_of(names: str) -> bytes:
    """A file of chunks: equal letters are equal bytes."""
    return b"".join(random.Random(name).randbytes(CHUNK // 2) + bytes(CHUNK // 2) for name in names)


LAYERS = [
    layer_tar(
        tree(
            directory(b"d", file(b"first", chunks_of("abcdefghij") + b"tail"), file(b"small", b"s" * 100)),
            file(b"same", chunks_of("acegbdfh")),
            file(b"zeros", chunks_of("kl") + bytes(3 * CHUNK) + chunks_of("m") + bytes(CHUNK) + b"end"),
        ).children
    ),
    layer_tar(tree(file(b"more", chunks_of("uvabwxyzjk") + b"another"), file(b"last", b"l")).children),
]


def rows_in_a_unit(image: Published) -> Iterator[tuple[bytes, int]]:
    """(path, index) of every chunk that goes on with its right neighbour of the same unit."""
    for path, inode in image.bootstrap.walk():
        if not stat.S_ISREG(inode.mode):
            continue
        for one, other in pairwise(image.bootstrap.extents(inode)):
            if (one.blob_index, one.blob_offset + one.size) != (other.blob_index, other.blob_offset):
                continue
            meta = image.metas[one.blob_index]
            if meta.unit_of_chunk(one.chunk_index) == meta.unit_of_chunk(other.chunk_index):
                yield path, one.chunk_index


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        replace(OPTIONS, batch_size=CHUNK * 64),
        replace(OPTIONS, prefetch=(b"/d/first", b"/same"), hot_blob=HotBlob.NAMED),
        replace(OPTIONS, prefetch=(b"/same", b"/more"), hot_blob=HotBlob.NAMED),
    ],
    ids=["small units", "large units", "hot blob", "hot blob of two layers"],
)
def test_no_chunk_lies_behind_the_one_that_a_file_goes_on_from(
    tmp_path: Path, options: ConvertOptions
) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    convert_layout(tmp_path / "in", tmp_path / "out", options)
    image = Published(tmp_path / "out")
    assert image.findings() == []
    assert max(meta.chunk_count - meta.unit_count for meta in image.metas) > 5, "units of many chunks"
    assert list(rows_in_a_unit(image)) == []
    shown = image.shown()
    assert shown[b"/d/first"].content == chunks_of("abcdefghij") + b"tail"
    assert shown[b"/same"].content == chunks_of("acegbdfh")
    assert shown[b"/more"].content == chunks_of("uvabwxyzjk") + b"another"
