"""A chunk entry is the same, whether it is made of its record's fields or as a word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rafs.codes import MAX_BLOBS, MAX_CHUNKS
from rafs.entry_words import ENTRY_WORD, chunk_blocks, entry_words, join_entry, split_entry
from rafs.records import CHUNK_ENTRY, ChunkEntry

_blobs = st.integers(0, MAX_BLOBS - 1)
_indices = st.integers(0, MAX_CHUNKS)
_blocks = st.integers(0, (1 << 32) - 1)


@given(_blobs, _indices, _blocks)
def test_words_are_taken_apart_as_they_were_joined(blob: int, index: int, block: int) -> None:
    assert split_entry(join_entry(blob, index, block)) == (blob, index, block)


@given(st.integers(0, (1 << 64) - 1))
def test_every_word_is_joined_again_from_its_parts(word: int) -> None:
    assert join_entry(*split_entry(word)) == word


@given(_blobs, _indices, _blocks)
def test_a_word_is_the_record(blob: int, index: int, block: int) -> None:
    record = ChunkEntry(index_low=index & 0xFFFF, device=blob + 1, index_high=index >> 16, block=block)
    assert ENTRY_WORD.pack(join_entry(blob, index, block)) == CHUNK_ENTRY.pack(record)


def test_the_words_of_a_blob_are_those_of_its_chunks() -> None:
    meta: Any = SimpleNamespace(blocks=range(5, 5 + 2 * (1 << 16) + 3))
    words = list(entry_words(7, chunk_blocks(meta, 4096)))
    assert words == [join_entry(7, index, block) for index, block in enumerate(meta.blocks)]
