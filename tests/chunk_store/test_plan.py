"""The order in which windows are fetched when nobody waits: pure arithmetic, no thread."""

from __future__ import annotations

from random import Random

from chunk_store.plan import FOLLOW_WINDOWS, STREAM_STEPS, Plan, State
from chunk_store.window_index import WindowIndex
from tests.chunk_store.blobs import blob_of

EVERYTHING = 1 << 40
# Units above half the largest window are windows of their own, so windows can be counted.
_RANDOM = Random(1)
META = blob_of([[_RANDOM.randbytes(1 << 16) + bytes(15 << 16) for part in range(3)] for n in range(20)]).meta
INDEX = WindowIndex([META])
ONE = INDEX[0].compressed_end


def plan_with(hot: tuple[int, ...] = (), present: tuple[int, ...] = ()) -> Plan:
    plan = Plan(INDEX, hot)
    for number in present:
        plan.states[number] = State.PRESENT
    return plan


def taken(plan: Plan, run: list[int]) -> list[int]:
    for number in run:
        plan.states[number] = State.IN_FLIGHT
    return run


def test_each_unit_here_is_a_window() -> None:
    assert len(INDEX) == 20


def test_hot_windows_come_in_their_order_and_neighbours_in_one_range() -> None:
    plan = plan_with(hot=(7, 2, 8, 3, 15))
    assert [taken(plan, plan.next_hot(EVERYTHING)) for _ in range(4)] == [[7, 8], [2, 3], [15], []]


def test_a_range_stays_within_its_limit_but_always_has_one_window() -> None:
    plan = plan_with()
    assert plan.next_background(1) == [0]
    assert plan.next_background(2 * ONE + 100) == [0, 1]


def test_a_range_ends_before_what_is_present_already() -> None:
    plan = plan_with(present=(3,))
    assert plan.next_background(EVERYTHING) == [0, 1, 2]


def test_the_background_follows_the_latest_miss_then_older_ones_then_blob_order() -> None:
    plan = plan_with(present=(4, 12))
    plan.missed(4)
    plan.missed(12)
    order = [taken(plan, plan.next_background(1))[0] for _ in range(18)]
    assert order == [13, 14, 15, 16, 17, 18, 19, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]


def test_a_stretch_grows_with_the_reader_who_follows_it() -> None:
    plan = plan_with(present=(0,))
    plan.missed(0)
    for _ in range(FOLLOW_WINDOWS):
        taken(plan, plan.next_background(1))
    plan.touched(3)
    plan.touched(19)
    order = [taken(plan, plan.next_background(1))[0] for _ in range(4)]
    assert order == [FOLLOW_WINDOWS + n for n in (1, 2, 3, 4)]


def test_who_waits_for_one_window_after_another_is_believed_to_read_on() -> None:
    plan = plan_with()
    for number in range(STREAM_STEPS + 1):
        assert plan.next_streamed(EVERYTHING) == []
        taken(plan, [number])
        plan.missed(number)
    assert taken(plan, plan.next_streamed(2 * ONE + 100)) == [STREAM_STEPS + 1, STREAM_STEPS + 2]
    plan.missed(STREAM_STEPS + 2)
    assert plan.next_streamed(1) == [STREAM_STEPS + 3]


def test_who_jumps_about_is_not() -> None:
    plan = plan_with()
    for number in (10, 12, 11, 13, 14, 10, 15, 16, 4):
        taken(plan, [number])
        plan.missed(number)
        assert plan.next_streamed(EVERYTHING) == []


def test_what_was_lost_is_wanted_again_and_what_is_broken_is_not() -> None:
    plan = plan_with(hot=(1,), present=tuple(range(20)))
    assert plan.next_hot(EVERYTHING) == plan.next_background(EVERYTHING) == []
    plan.absent_again(1)
    plan.absent_again(6)
    plan.states[8] = State.BROKEN
    plan.states[9] = State.SET_ASIDE
    assert taken(plan, plan.next_hot(EVERYTHING)) == [1]
    assert taken(plan, plan.next_background(EVERYTHING)) == [6]
    assert plan.next_background(EVERYTHING) == []
    plan.retry_set_aside()
    assert plan.next_background(EVERYTHING) == [9]


def test_a_miss_takes_along_what_lies_behind_it() -> None:
    plan = plan_with(present=(6,))
    assert plan.tail(3, 2 * ONE + 100) == [3, 4]
    assert plan.tail(5, EVERYTHING) == [5]
    assert plan.tail(19, EVERYTHING) == [19]
