"""One failure stops everybody, and leaving the block leaves no thread behind."""

from __future__ import annotations

import threading

import pytest

from builder.crew import Crew, GivenUp


def fail() -> None:
    raise ValueError("the first")


def test_a_failure_reaches_everybodys_next_check() -> None:
    with Crew() as crew:
        crew.check()
        future = crew.submit(crew.pool(1, "worker"), fail)
        with pytest.raises(ValueError, match="the first"):
            future.result()
        with pytest.raises(ValueError, match="the first"):
            crew.check()


def test_leaving_stops_what_runs_and_drops_what_waits() -> None:
    running = threading.Event()
    ended: list[str] = []

    def work(name: str) -> None:
        running.set()
        try:
            while True:
                crew.check()
        except GivenUp:
            ended.append(name)
            raise

    with pytest.raises(KeyboardInterrupt), Crew() as crew:
        pool = crew.pool(1, "worker")
        crew.submit(pool, work, "runs")
        waiting = crew.submit(pool, work, "waits")
        running.wait()
        raise KeyboardInterrupt
    assert ended == ["runs"]
    assert waiting.cancelled()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker")]
