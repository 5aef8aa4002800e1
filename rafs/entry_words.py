"""The chunk entries of inodes as the 64-bit words that they are on disk: one, or all of a blob at once.

Containers' first starts wait for what is done with them (`check_entries`, `localise`), hence maps that run
in C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import chain, count
from operator import add
from typing import TYPE_CHECKING, Final

from .codes import BLOCK

if TYPE_CHECKING:
    from .blob_meta import BlobMeta

ENTRY_WORD: Final = struct.Struct("<Q")

# `records.ChunkEntry` as a word, from the lowest bit: 16 bits of the chunk's index, 8 of the device (blob
# index + 1, or the number of a window), the index's upper 8 bits, 32 of the block. Where one entry after the
# other is packed or unpacked it is done by the record's fields, in a third of the time of a word.
LOW_BITS: Final = 16  # of an index
LOW_MASK: Final = (1 << LOW_BITS) - 1
DEVICE_SHIFT: Final = 16
DEVICE_MASK: Final = 0xFF
BLOCK_SHIFT: Final = 32
_LOW_INDICES: Final = 1 << LOW_BITS
_HIGH_MASK: Final = 0xFF << LOW_BITS
_HIGH_MOVED: Final = 8  # the upper part of an index stands so much further up in the word


def chunk_blocks(meta: BlobMeta, block_size: int) -> list[int]:
    """The block of every chunk of the blob, as the part of its entry that it is, in an image of blocks of
    *block_size* bytes.
    """
    scale = BLOCK // block_size
    return [block * scale << BLOCK_SHIFT for block in meta.blocks]


def entry_words(blob_index: int, blocks: Sequence[int]) -> Iterator[int]:
    """The entry of every chunk of the blob, in order; *blocks* are those of `chunk_blocks`."""
    return chain.from_iterable(
        # Chunks count up in the word until the low part of the index is full.
        map(add, blocks[first : first + _LOW_INDICES], count(join_entry(blob_index, first, 0)))
        for first in range(0, len(blocks), _LOW_INDICES)
    )


def join_entry(blob_index: int, chunk_index: int, block: int) -> int:
    """The entry of a chunk; all three must be in their ranges."""
    return (
        block << BLOCK_SHIFT
        | (chunk_index & _HIGH_MASK) << _HIGH_MOVED
        | blob_index + 1 << DEVICE_SHIFT
        | chunk_index & LOW_MASK
    )


def split_entry(word: int) -> tuple[int, int, int]:
    """(blob index, chunk index, block) of an entry; the blob index of a word that names none is -1."""
    return (
        (word >> DEVICE_SHIFT & DEVICE_MASK) - 1,
        word & LOW_MASK | word >> _HIGH_MOVED & _HIGH_MASK,
        word >> BLOCK_SHIFT,
    )
