"""Content-defined borders of compressed units."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.digests import chunk_digest
from rafs.unit_cutter import UnitCutter

KIB = 1024
Chunk = tuple[int, bytes]


def units(chunks: list[Chunk], batch_size: int) -> list[list[Chunk]]:
    cutter = UnitCutter(batch_size)
    cut: list[list[Chunk]] = []
    for size, digest in chunks:
        if cutter.begins_unit(size, digest):
            cut.append([])
        cut[-1].append((size, digest))
    return cut


def bytes_of(unit: list[Chunk]) -> int:
    return sum(size for size, _ in unit)


def random_chunks(seed: int, count: int, *, largest: int = 256 * KIB) -> list[Chunk]:
    """File sizes as an image has them: many small, some at the largest chunk size."""
    rng = random.Random(seed)
    return [(min(largest, 1 + int(rng.lognormvariate(8.3, 1.8))), rng.randbytes(32)) for _ in range(count)]


sizes = st.integers(1, 300_000)
chunk_lists = st.lists(st.tuples(sizes, st.binary(min_size=32, max_size=32)), max_size=200)


@given(chunk_lists, st.sampled_from([4 * KIB, 64 * KIB, 1024 * KIB]))
def test_units_hold_every_chunk_once_in_order_and_keep_the_bounds(
    chunks: list[Chunk], batch_size: int
) -> None:
    cut = units(chunks, batch_size)
    assert [chunk for unit in cut for chunk in unit] == chunks
    for unit in cut:
        assert len(unit) == 1 or bytes_of(unit) <= 2 * batch_size
    for unit, following in itertools.pairwise(cut):
        assert bytes_of(unit) >= batch_size // 2 or bytes_of(unit) + following[0][0] > 2 * batch_size


def borders_from_the_end(cut: list[list[Chunk]]) -> list[int]:
    """How many chunks lie behind each border, nearest to the end first."""
    return list(itertools.accumulate(len(unit) for unit in reversed(cut)))


@given(chunk_lists, chunk_lists)
def test_sequences_that_share_a_border_share_all_later_ones(ours: list[Chunk], tail: list[Chunk]) -> None:
    alone = borders_from_the_end(units(tail, 64 * KIB))
    behind = borders_from_the_end(units(ours + tail, 64 * KIB))
    first_shared = max((border for border in alone if border in behind), default=0)
    assert [border for border in alone if border <= first_shared] == [
        border for border in behind if border <= first_shared
    ]


@pytest.mark.parametrize("seed", range(8))
def test_units_resynchronise_behind_a_different_beginning(seed: int) -> None:
    tail = random_chunks(seed, 3000)
    alone = units(tail, 1024 * KIB)
    behind = units(random_chunks(seed + 100, 50) + tail, 1024 * KIB)
    digests = {tuple(digest for _, digest in unit) for unit in behind}
    lost = [unit for unit in alone if tuple(digest for _, digest in unit) not in digests]
    assert len(alone) > 10
    assert len(lost) <= 6


@pytest.mark.parametrize("largest", [4 * KIB, 64 * KIB, 256 * KIB])
def test_the_mean_unit_is_near_the_batch_size(largest: int) -> None:
    chunks = random_chunks(1, 60_000, largest=largest)
    cut = units(chunks, 1024 * KIB)
    mean = sum(map(bytes_of, cut)) / len(cut)
    assert 0.8 < mean / (1024 * KIB) < 1.2


def test_a_chunk_larger_than_two_batches_is_a_unit_of_its_own() -> None:
    never = b"\xff" * 32
    cut = units([(10, never), (100_000, never), (10, never)], 4 * KIB)
    assert [len(unit) for unit in cut] == [1, 1, 1]


def test_a_digest_that_is_never_chosen_ends_units_at_the_upper_limit_only() -> None:
    never = b"\xff" * 32
    cut = units([(KIB, never)] * 24, 4 * KIB)
    assert [len(unit) for unit in cut] == [8, 8, 8]


def test_a_digest_that_is_always_chosen_ends_units_at_the_minimum() -> None:
    cut = units([(KIB, bytes(32))] * 8, 4 * KIB)
    assert [len(unit) for unit in cut] == [2, 2, 2, 2]


def test_the_digest_of_a_chunk_is_blake3() -> None:
    assert chunk_digest(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert chunk_digest(memoryview(b"abc")) == chunk_digest(b"abc")
