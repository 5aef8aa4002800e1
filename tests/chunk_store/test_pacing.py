"""When the hot list and the background may go on: times are given, none is waited for."""

from __future__ import annotations

from chunk_store.limits import Limits
from chunk_store.pacing import Pacing

LIMITS = Limits(
    bulk_connections=3,
    hot_while_waiting=2,
    background_while_busy=1,
    busy_seconds=0.15,
    start_seconds=2.0,
    start_busy_seconds=0.4,
)
LONG_AGO = 90.0  # when the program was started that reads at 100 s


def test_the_background_stands_still_while_a_reader_waits() -> None:
    pacing = Pacing(LIMITS, LONG_AGO)
    assert pacing.background_room(100.0, awaited=0) == 3
    assert pacing.background_room(100.0, awaited=1) == 0


def test_the_hot_list_goes_on_more_narrowly_while_a_reader_waits() -> None:
    pacing = Pacing(LIMITS, LONG_AGO)
    assert (pacing.hot_room(100.0, awaited=0), pacing.hot_room(100.0, awaited=5)) == (3, 2)


def test_the_background_keeps_to_one_range_until_readers_are_quiet() -> None:
    pacing = Pacing(LIMITS, LONG_AGO)
    pacing.answered(100.0)
    assert pacing.background_room(100.1, awaited=0) == 1
    assert pacing.next_change(100.1) is not None
    assert pacing.background_room(100.2, awaited=0) == 3
    assert pacing.next_change(100.2) is None


def test_while_a_program_starts_the_background_waits_until_readers_are_quiet_for_longer() -> None:
    pacing = Pacing(LIMITS, 99.0)
    assert pacing.background_room(99.0, awaited=0) == 3
    pacing.answered(100.0)
    assert pacing.background_room(100.3, awaited=0) == 0
    assert pacing.hot_room(100.3, awaited=0) == 3
    assert pacing.background_room(100.5, awaited=0) == 3
    pacing.answered(100.9)
    assert pacing.background_room(101.1, awaited=0) == 1, "the start is over"


def test_ranges_that_fail_together_rest_once_and_longer_each_time() -> None:
    pacing = Pacing(LIMITS, LONG_AGO)
    for _ in range(3):
        pacing.remote_failed(100.0)
    assert pacing.hot_room(100.4, awaited=0) == pacing.background_room(100.4, awaited=0) == 0
    assert pacing.hot_room(100.5, awaited=0) == 3
    pacing.remote_failed(100.5)
    assert pacing.hot_room(101.4, awaited=0) == 0
    pacing.remote_works()
    assert pacing.hot_room(101.4, awaited=0) == 3


def test_a_full_disk_is_spoken_of_once_a_minute_and_tried_again_twice() -> None:
    pacing = Pacing(LIMITS, LONG_AGO)
    assert [pacing.disk_refused(at) for at in (100.0, 101.0, 159.0, 161.0)] == [True, False, False, True]
    assert [pacing.may_try_disk(at) for at in (161.0, 190.0, 191.0)] == [False, False, True]
