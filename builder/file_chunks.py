"""The bytes of one file of a layer, cut into chunks, read from where its tar lies.

Whoever packs files and whoever compares them with packed ones cut here, so both see the same chunks.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from builder.scratch import ScratchFile
from builder.sparse import Piece
from builder.tar_index import TarEntry
from rafs.unit_cutter import chunk_digest

NOWHERE: Final = (1 << 64) - 1  # a chunk that is partly zeros a sparse file does not store

Digest = Callable[[bytes], bytes]


def file_chunks(
    entry: TarEntry, spool: ScratchFile, chunk_size: int, digest: Digest = chunk_digest
) -> Iterator[tuple[int, bytes, bytes]]:
    """(offset in *spool*, bytes, *digest* of them) of each chunk of the regular file *entry*.

    The offset is `NOWHERE` where the bytes are not in one piece there.

    Raises:
        SpoolFailed: the disk reported an error.
    """
    node = entry.node
    assert node is not None and stat.S_ISREG(node.mode)
    pieces = entry.pieces
    if len(pieces) == 1 and pieces[0].size == node.size:
        start = pieces[0].tar_offset
        for offset in range(0, node.size, chunk_size):
            size = min(chunk_size, node.size - offset)
            content = spool.read(start + offset, size)
            assert len(content) == size, "the index promised these bytes"
            yield start + offset, content, digest(content)
        return
    # Hashed once: a sparse file may be all zeros for a terabyte.
    zeros = bytes(min(chunk_size, node.size))
    zeros_digest = digest(zeros) if zeros else b""
    at = 0
    for offset in range(0, node.size, chunk_size):
        size = min(chunk_size, node.size - offset)
        while at < len(pieces) and pieces[at].file_offset + pieces[at].size <= offset:
            at += 1
        if at == len(pieces) or pieces[at].file_offset >= offset + size:
            content = zeros[:size]
            yield NOWHERE, content, zeros_digest if content is zeros else digest(content)
        else:
            content = _assembled(pieces, at, spool, offset, size)
            yield NOWHERE, content, digest(content)


def _assembled(pieces: Sequence[Piece], first: int, spool: ScratchFile, offset: int, size: int) -> bytes:
    chunk = bytearray(size)
    for at in range(first, len(pieces)):
        piece = pieces[at]
        start = max(piece.file_offset, offset)
        end = min(piece.file_offset + piece.size, offset + size)
        if start >= end:
            break
        chunk[start - offset : end - offset] = spool.read(
            piece.tar_offset + start - piece.file_offset, end - start
        )
    return bytes(chunk)
