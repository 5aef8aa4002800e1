"""What has just failed is known for a moment, for the bytes that failed, and never grows without bound."""

from __future__ import annotations

from fuse_fs.recent_failures import FAILURES_KEPT, STILL_FAILED_SECONDS, RecentFailures


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_bytes_of_a_failed_read_are_covered_and_none_beside_them() -> None:
    failures: RecentFailures[int] = RecentFailures(Clock())
    failures.note(7, 4096, 8192)
    asked = (4095, 4096, 12287, 12288)
    assert [failures.covers(7, offset) for offset in asked] == [False, True, True, False]


def test_a_file_that_has_not_failed_is_not_covered() -> None:
    failures: RecentFailures[bytes] = RecentFailures(Clock())
    failures.note(b"/a", 0, 4096)
    assert not failures.covers(b"/b", 0)


def test_a_failure_is_forgotten_when_its_time_is_over() -> None:
    clock = Clock()
    failures: RecentFailures[int] = RecentFailures(clock)
    failures.note(7, 0, 4096)
    clock.now += STILL_FAILED_SECONDS * 0.9
    assert failures.covers(7, 0)
    clock.now += STILL_FAILED_SECONDS * 0.2
    assert not failures.covers(7, 0)


def test_the_latest_failure_of_a_file_counts() -> None:
    failures: RecentFailures[int] = RecentFailures(Clock())
    failures.note(7, 0, 4096)
    failures.note(7, 8192, 4096)
    assert (failures.covers(7, 0), failures.covers(7, 8192)) == (False, True)


def test_however_many_files_fail_only_so_many_are_kept() -> None:
    failures: RecentFailures[int] = RecentFailures(Clock())
    for number in range(10 * FAILURES_KEPT):
        failures.note(number, 0, 4096)
        assert failures.covers(number, 0)
    assert sum(failures.covers(number, 0) for number in range(10 * FAILURES_KEPT)) <= FAILURES_KEPT
