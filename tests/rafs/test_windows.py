"""Windows partition a blob along units, and equal content has equal windows wherever it lies."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafs.blob_meta import BlobMeta
from rafs.defaults import WINDOW_MAX, WINDOW_MIN, WINDOW_TARGET
from rafs.errors import FormatInvalid
from rafs.windows import Window, cut_windows, find_window
from tests.support.blob_metas import sized_blob

Units = list[list[tuple[bytes, int]]]


def _unit(seed: int, sizes: list[int]) -> list[tuple[bytes, int]]:
    return [
        (hashlib.sha256(f"{seed}/{number}/{size}".encode()).digest(), size)
        for number, size in enumerate(sizes)
    ]


_chunk_sizes = st.one_of(
    st.integers(1, 9000), st.integers(1, 1 << 20), st.sampled_from([4096, 65536, 1 << 20])
)
_units = st.lists(
    st.builds(_unit, st.integers(0, 1 << 30), st.lists(_chunk_sizes, min_size=1, max_size=8)),
    min_size=1,
    max_size=30,
)


def _unit_ends(meta: BlobMeta) -> set[int]:
    return {meta.unit(i).first_chunk for i in range(meta.unit_count)} | {meta.chunk_count}


@settings(deadline=None)
@given(_units)
def test_windows_are_the_blob_in_order_and_never_split_a_unit(units: Units) -> None:
    meta = sized_blob(units)
    windows = cut_windows(meta)
    assert [window.index for window in windows] == list(range(len(windows)))
    assert (windows[0].start, windows[0].first_unit, windows[0].first_chunk) == (0, 0, 0)
    for this, following in pairwise(windows):
        assert this.start + this.length == following.start
        assert this.first_chunk + this.chunk_count == following.first_chunk
        assert this.first_unit + this.unit_count == following.first_unit
        assert this.compressed_end <= following.compressed_start
    assert windows[-1].start + windows[-1].length == meta.uncompressed_size
    assert windows[-1].first_chunk + windows[-1].chunk_count == meta.chunk_count
    for window in windows:
        assert window.length % 4096 == 0
        assert {window.first_chunk, window.first_chunk + window.chunk_count} <= _unit_ends(meta)
        assert window.length <= WINDOW_MAX or window.unit_count == 1


@settings(deadline=None)
@given(_units, _units, st.integers(0, 1 << 20))
def test_after_a_common_cut_equal_content_has_equal_windows(before: Units, common: Units, seed: int) -> None:
    # A unit of TARGET - MIN bytes whose digest is 0 ends a window for certain.
    border = [(bytes(32), WINDOW_TARGET - WINDOW_MIN)]
    one = cut_windows(sized_blob([border, *common]))
    other = cut_windows(sized_blob([*before, border, *common]))
    tail = [window.id for window in one[1:]]
    assert [window.id for window in other[len(other) - len(tail) :]] == tail


@settings(deadline=None)
@given(_units)
def test_every_byte_is_found_in_its_window(units: Units) -> None:
    meta = sized_blob(units)
    windows = cut_windows(meta)
    for index in range(meta.chunk_count):
        chunk = meta.chunk(index)
        window = find_window(windows, chunk.offset + chunk.size - 1)
        assert window.first_chunk <= index < window.first_chunk + window.chunk_count
    for outside in (-1, meta.uncompressed_size):
        with pytest.raises(FormatInvalid):
            find_window(windows, outside)


def _one(units: Units) -> Window:
    (window,) = cut_windows(sized_blob(units))
    return window


def test_the_id_says_every_digest_and_size() -> None:
    same = [_unit(1, [100, 200])]
    assert _one(same).id == _one([same[0][:1], same[0][1:]]).id, "units are not part of a window's content"
    for other in ([100, 201], [100], [200, 100]):
        assert _one([_unit(1, other)]).id != _one(same).id
    digest = bytes(32)
    assert _one([[(digest, 5), (digest, 6)]]).id != _one([[(digest, 6), (digest, 5)]]).id


@pytest.mark.parametrize("size", [2000, 60_000, 400_000, 1_000_000])
def test_windows_are_about_a_mebibyte_whatever_the_units(size: int) -> None:
    meta = sized_blob([_unit(seed, [size]) for seed in range(100_000_000 // (size + 2048))])
    windows = cut_windows(meta)
    mean = meta.uncompressed_size / len(windows)
    assert 0.7 * WINDOW_TARGET < mean < 1.5 * WINDOW_TARGET
    assert max(window.length for window in windows) <= WINDOW_MAX


def test_a_large_unit_is_a_window_of_its_own() -> None:
    large = [_unit(seed, [1 << 20] * 5) for seed in range(4)]
    assert [window.unit_count for window in cut_windows(sized_blob(large))] == [1, 1, 1, 1]


def test_units_that_can_never_be_cut_are_bounded() -> None:
    never = [(b"\xff" * 32, 4096)]
    windows = cut_windows(sized_blob([never] * 3000))
    assert [window.length for window in windows] == [WINDOW_MAX, WINDOW_MAX, 3000 * 4096 - 2 * WINDOW_MAX]
