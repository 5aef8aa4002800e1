"""What measurements hold their figures against: the processors alone."""

from __future__ import annotations

from bench.processor import round_trips


def test_an_idle_process_is_woken_and_answers_each_time() -> None:
    found = round_trips(5)
    assert len(found) == 4, "the first waits for the start of a program"
    assert all(0 < microseconds < 1e6 for microseconds in found)
