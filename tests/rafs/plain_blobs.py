"""Blobs and trees for writer tests that look at places and numbers only: nothing is packed."""

from __future__ import annotations

import hashlib
import os
import stat
from array import array

from rafs.codes import Compressor
from rafs.finished_blob import FinishedBlob
from rafs.tree import Node

CHUNK_SIZE = 4096
DIRECTORY = stat.S_IFDIR | 0o755
REGULAR = stat.S_IFREG | 0o644


def plain(number: int = 0, *, chunks: int = 4, chunk_size: int = CHUNK_SIZE) -> FinishedBlob:
    """A blob that was never packed: its chunks have 1, 2, 3 … bytes, its digests and places are made up."""
    return FinishedBlob(
        id=f"{number:064x}",
        object_size=9000,
        chunk_size=chunk_size,
        uncompressed_size=chunks * 4096,
        toc_size=1024,
        toc_digest=bytes(range(32)),
        ci_compressor=Compressor.NONE,
        ci_offset=5000,
        ci_compressed_size=24 * chunks + 40,
        chunk_info=bytes(24 * chunks + 40),
        digests=b"".join(hashlib.sha256(b"%d %d" % (number, index)).digest() for index in range(chunks)),
        blocks=array("I", range(chunks)),
        sizes=array("I", range(1, chunks + 1)),
    )


def folder(**children: Node) -> Node:
    return Node(DIRECTORY, children={os.fsencode(name): node for name, node in children.items()})


def regular(size: int, *refs: int) -> Node:
    return Node(REGULAR, size=size, chunks=refs)
