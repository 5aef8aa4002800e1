"""Nobody is made to wait for the same bytes twice, and who has not waited is not taken for one who has."""

from __future__ import annotations

import pytest

from chunk_store import recent_failures
from chunk_store.recent_failures import (
    GRACE_SECONDS,
    NOT_AT_ALL,
    OWN_SECONDS,
    STILL_FAILED_SECONDS,
    RecentFailures,
)
from tests.support.clock import Clock

ONE, TWO, THREE = 41, 42, 43  # askers
LONG, SHORT = 30.0, 0.1  # seconds that somebody has waited


class Bench:
    """What has failed, and a clock for it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.failures: RecentFailures[str] = RecentFailures(self.clock)

    def fail(self, asker: int, start: int, end: int, waited: float = LONG, key: str = "a") -> None:
        self.failures.note(key, asker, start, end, self.clock.now - waited)

    def until(self, asker: int, start: int, key: str = "a") -> float | None:
        return self.failures.until(key, asker, start)

    def covers(self, asker: int, start: int, key: str = "a") -> bool:
        return self.until(asker, start, key) is not None


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_bytes_of_a_failed_wait_are_covered_and_none_beside_them(bench: Bench) -> None:
    bench.fail(ONE, 4096, 12288)
    asked = (4095, 4096, 12287, 12288)
    assert [bench.covers(ONE, start) for start in asked] == [False, True, True, False]
    assert not bench.covers(ONE, 4096, key="b")


def test_the_kernels_question_for_who_has_waited_may_come_seconds_later(bench: Bench) -> None:
    bench.fail(ONE, 0, 4096)
    bench.clock.now += OWN_SECONDS * 0.9
    assert bench.until(TWO, 0) is None
    assert bench.until(ONE, 0) == NOT_AT_ALL


def test_it_is_asked_for_a_page_fault_once_more_and_then_by_the_process_itself(bench: Bench) -> None:
    bench.fail(ONE, 0, 4096)
    assert bench.covers(ONE, 0)
    assert bench.covers(ONE, 0)
    bench.clock.now += STILL_FAILED_SECONDS
    assert not bench.covers(ONE, 0)


def test_a_failure_is_forgotten_when_its_time_is_over(bench: Bench) -> None:
    bench.fail(ONE, 0, 4096)
    bench.clock.now += OWN_SECONDS
    assert not bench.covers(ONE, 0)


def test_those_who_wait_behind_each_other_for_one_page_are_told_one_after_another(bench: Bench) -> None:
    bench.fail(ONE, 0, 131072)
    for asker in range(100, 105):
        bench.clock.now += STILL_FAILED_SECONDS * 0.9
        assert bench.covers(asker, 4096), asker
    bench.clock.now += STILL_FAILED_SECONDS
    assert not bench.covers(THREE, 4096)


def test_those_behind_each_other_wait_a_little_longer_than_the_first_all_of_them_together(
    bench: Bench,
) -> None:
    bench.fail(ONE, 0, 131072)
    end = bench.clock.now + GRACE_SECONDS
    for asker in range(100, 104):
        assert bench.until(asker, 4096) == end
        bench.clock.now += 1
        bench.fail(asker, 4096, 8192, waited=1)


def test_a_row_of_askers_without_end_is_not_believed_in(bench: Bench) -> None:
    bench.fail(ONE, 0, 4096)
    refused = 0
    while bench.covers(1000 + refused, 0):
        refused += 1
        bench.clock.now += STILL_FAILED_SECONDS / 4
    assert 10 < refused < 30


def test_who_comes_after_a_short_wait_may_wait_anew_but_not_who_has_waited(bench: Bench) -> None:
    bench.fail(ONE, 0, 4096, waited=SHORT)
    assert not bench.covers(TWO, 0)
    assert bench.covers(ONE, 0)
    assert not bench.covers(ONE, 0)  # by itself


def test_short_waits_one_behind_the_other_are_a_long_one(bench: Bench) -> None:
    """Who waits for a page behind ten others has waited for all of them."""
    for asker in range(10):
        bench.clock.now += SHORT * 2
        bench.fail(asker, 0, 4096, waited=SHORT)
    assert bench.covers(THREE, 0)


def test_one_who_waits_for_two_things_is_told_of_both(bench: Bench) -> None:
    bench.fail(ONE, 0, 4096)
    bench.fail(ONE, 8192, 12288)
    bench.fail(ONE, 0, 4096, key="b")
    bench.clock.now += STILL_FAILED_SECONDS
    assert bench.covers(ONE, 8192) and bench.covers(ONE, 0) and bench.covers(ONE, 0, key="b")


def test_whoever_fails_however_many_do_at_once(bench: Bench) -> None:
    for asker in range(2000):
        bench.fail(asker, 0, 4096, key=str(asker))
    bench.clock.now += OWN_SECONDS * 0.9
    assert all(bench.covers(asker, 0, key=str(asker)) for asker in range(2000))


def test_no_more_are_kept_than_there_is_room_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_failures, "FAILURES_KEPT", 50)
    for asker in range(200):
        bench.fail(asker, 0, 4096, waited=SHORT, key=str(asker % 70))
    assert sum(bench.covers(asker, 0, key=str(asker % 70)) for asker in range(200)) == 50


def test_what_a_call_costs_does_not_grow_with_those_who_have_failed(bench: Bench) -> None:
    """Thousands of threads may read one window of a registry that is gone."""
    looked_at = 0

    class Counted(int):
        """Where something begins; counts with how much it is compared."""

        def __lt__(self, other: int) -> bool:
            nonlocal looked_at
            looked_at += 1
            return int(self) < other

        def __le__(self, other: int) -> bool:
            nonlocal looked_at
            looked_at += 1
            return int(self) <= other

    def fail_all(askers: range) -> int:
        nonlocal looked_at
        looked_at = 0
        for asker in askers:
            start = Counted(asker % 500 * 4096)
            bench.fail(asker, start, Counted(start + 4096))
            assert bench.until(asker, start) == NOT_AT_ALL
        return looked_at

    first = fail_all(range(1000))
    assert first > 0
    fail_all(range(1000, 4000))
    assert fail_all(range(4000, 5000)) < 2 * first


def test_what_is_over_takes_no_room(bench: Bench) -> None:
    for asker in range(200):
        bench.fail(asker, 0, 4096, key=str(asker % 3))
        bench.clock.now += 1.0
    kept = bench.failures
    assert len(kept._failed) < 20 and len(kept._owed) < 20 and len(kept._rows) <= 3
