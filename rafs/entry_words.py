"""The chunk entries of inodes, as the 64-bit words that they are on disk, for all chunks of a blob at once.

Containers' first starts wait for what is done with them (`check_entries`, `localise`), hence maps that run
in C.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, count
from operator import add

from .blob_meta import BlobMeta
from .codes import BLOCK

_LOW_INDICES = 1 << 16  # an entry holds the chunk's index in two parts, the lower of 16 bits


def chunk_blocks(meta: BlobMeta, block_size: int) -> list[int]:
    """The block of every chunk of the blob, as the part of its entry that it is, in an image of blocks of
    *block_size* bytes.
    """
    scale = BLOCK // block_size
    return [block * scale << 32 for block in meta.blocks]


def entry_words(blob_index: int, blocks: Sequence[int]) -> Iterator[int]:
    """The entry of every chunk of the blob, in order; *blocks* are those of `chunk_blocks`."""
    return chain.from_iterable(
        map(add, blocks[first : first + _LOW_INDICES], count(_at_block_0(blob_index, first)))
        for first in range(0, len(blocks), _LOW_INDICES)
    )


def split_entry(word: int) -> tuple[int, int, int]:
    """(blob index, chunk index, block) of an entry; the blob index of a word that names none is -1."""
    return (word >> 16 & 0xFF) - 1, word & 0xFFFF | word >> 8 & 0xFF_0000, word >> 32


def _at_block_0(blob_index: int, chunk_index: int) -> int:
    """The entry of a chunk at block 0; chunks after it count up until the low half of the index is full."""
    return (blob_index + 1) << 16 | chunk_index // _LOW_INDICES << 24 | chunk_index % _LOW_INDICES
