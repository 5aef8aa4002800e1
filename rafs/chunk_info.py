"""The bit fields of one chunk info entry: both versions written, version 2 read.

Arithmetic on integers only. Whole arrays of both versions are read by `chunk_columns`.
"""

from __future__ import annotations

from typing import NamedTuple

from .codes import BLOCK, ChunkFlag
from .records import ChunkInfoV1, ChunkInfoV2

_LOW20 = (1 << 20) - 1
_LOW24 = (1 << 24) - 1
_LOW32 = (1 << 32) - 1
_LOW40 = (1 << 40) - 1

# Plain integers: arithmetic on an IntFlag costs far more.
_IN_CONTEXT = int(ChunkFlag.ZRAN | ChunkFlag.BATCH)
_HAS_CRC = int(ChunkFlag.HAS_CRC)


class ChunkInfo(NamedTuple):
    """One chunk of a blob. Sizes and offsets in bytes."""

    offset: int  # in the uncompressed address space, multiple of 4096
    size: int  # 1 .. 2**24
    compressed_offset: int
    compressed_size: int  # 0: member of a batch unit
    flags: int = 0  # codes.ChunkFlag; 0 in V1
    context: int = 0  # batch, zran: index of the context
    context_offset: int = 0  # batch, zran: where the chunk starts in the context's output
    crc32c: int = 0  # neither batch nor zran, flag HAS_CRC


def encode_v1(chunk: ChunkInfo) -> ChunkInfoV1:
    size, compressed = chunk.size - 1, chunk.compressed_size - 1
    return ChunkInfoV1(
        (size & _LOW20) << 44 | chunk.offset | size >> 20 << 8,
        (compressed & _LOW20) << 44 | compressed >> 20 << 40 | chunk.compressed_offset,
    )


def decode_v2(entry: ChunkInfoV2) -> ChunkInfo:
    u0, u1, u2 = entry
    flags = u0 >> 56
    in_context = flags & _IN_CONTEXT
    return ChunkInfo(
        offset=(u0 & _LOW32) * BLOCK,
        size=(u0 >> 32 & _LOW24) + 1,
        compressed_offset=u1 & _LOW40,
        compressed_size=u1 >> 40,
        flags=flags,
        context=u2 >> 32 if in_context else 0,
        context_offset=u2 & _LOW32 if in_context else 0,
        crc32c=u2 & _LOW32 if not in_context and flags & _HAS_CRC else 0,
    )


def encode_v2(chunk: ChunkInfo) -> ChunkInfoV2:
    in_context = chunk.flags & _IN_CONTEXT
    return ChunkInfoV2(
        chunk.flags << 56 | chunk.size - 1 << 32 | chunk.offset // BLOCK,
        chunk.compressed_size << 40 | chunk.compressed_offset,
        chunk.context << 32 | chunk.context_offset if in_context else chunk.crc32c,
    )
