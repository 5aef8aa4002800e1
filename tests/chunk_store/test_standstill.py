"""What stands in the way of filling is told as long as it does, and ends a wait only where that is no use."""

from __future__ import annotations

import pytest

from chunk_store.errors import ChunkCorrupt, ChunkUnavailable, StoreFull
from chunk_store.standstill import Standstill


def test_nothing_stands_in_the_way_at_first() -> None:
    standstill = Standstill()
    standstill.raise_hopeless(missing=3, broken=0)
    assert standstill.reason is None


def test_a_full_disk_ends_the_wait_until_a_window_of_ours_was_written() -> None:
    standstill = Standstill()
    standstill.disk_refused("no space")
    standstill.window_completed(written=False, for_reader=False)
    with pytest.raises(StoreFull, match="no space"):
        standstill.raise_hopeless(missing=3, broken=0)
    standstill.window_completed(written=True, for_reader=True)
    standstill.raise_hopeless(missing=3, broken=0)
    assert standstill.reason is None


def test_at_the_limit_a_reader_s_window_says_nothing_of_room_for_the_rest() -> None:
    standstill = Standstill()
    standstill.disk_refused("the limit", at_limit=True)
    standstill.window_completed(written=True, for_reader=True)
    assert str(standstill.reason) == "the limit"
    standstill.window_completed(written=True, for_reader=False)
    assert standstill.reason is None


def test_broken_windows_end_the_wait_when_nothing_else_is_missing_and_stay_told() -> None:
    standstill = Standstill()
    standstill.remote_failed(ChunkCorrupt("window 7 is wrong"))
    standstill.window_completed(written=True, for_reader=True)
    assert str(standstill.reason) == "window 7 is wrong"
    standstill.raise_hopeless(missing=3, broken=1)
    with pytest.raises(ChunkCorrupt, match="1 windows of the image are wrong at their source: window 7"):
        standstill.raise_hopeless(missing=1, broken=1)


def test_a_remote_that_may_come_back_is_waited_for_and_another_is_not() -> None:
    standstill = Standstill()
    away, never = ChunkUnavailable("away", temporary=True), ChunkUnavailable("not there")
    standstill.remote_failed(away)
    standstill.raise_hopeless(missing=3, broken=0)
    assert str(standstill.reason) == "away"
    standstill.remote_failed(never)
    with pytest.raises(ChunkUnavailable, match="not there"):
        standstill.raise_hopeless(missing=3, broken=0)
    standstill.window_completed(written=False, for_reader=False)
    assert standstill.reason is None
