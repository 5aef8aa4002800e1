"""Threads are there while there are jobs, and only then."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import pytest

from chunk_store import fetch_threads
from chunk_store.fetch_threads import FetchThreads
from tests.chunk_store.blobs import eventually


class Jobs:
    """Jobs that wait at a gate, and threads that do them."""

    def __init__(self, most: int) -> None:
        self.turn = threading.Condition(threading.Lock())
        self.left: deque[int] = deque()
        self.gate = threading.Event()
        self.running: set[int] = set()
        self.done: list[int] = []
        self.threads = FetchThreads[int](
            self.turn,
            most,
            next_job=lambda: self.left.popleft() if self.left else None,
            next_change=lambda: None,
            run=self._run,
            ended=self.done.append,
        )

    def add(self, *jobs: int) -> None:
        with self.turn:
            self.left.extend(jobs)
            self.threads.hire(len(self.left))

    def _run(self, job: int) -> None:
        self.running.add(job)
        self.gate.wait()


def count() -> int:
    return sum(thread.name == "fetch" for thread in threading.enumerate())


def test_there_are_never_more_threads_than_allowed_and_all_jobs_are_done() -> None:
    jobs = Jobs(most=3)
    jobs.add(*range(8))
    assert eventually(lambda: jobs.running == {0, 1, 2})
    assert count() == 3
    jobs.gate.set()
    assert eventually(lambda: sorted(jobs.done) == list(range(8)))
    with jobs.turn:
        jobs.threads.stop()
    jobs.threads.join(10)
    assert count() == 0


def test_a_thread_without_jobs_leaves_and_the_next_job_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_threads, "_IDLE_SECONDS", 0.01)
    jobs = Jobs(most=3)
    jobs.gate.set()
    jobs.add(1)
    assert eventually(lambda: jobs.done == [1] and count() == 0)
    jobs.add(2)
    assert eventually(lambda: jobs.done == [1, 2] and count() == 0)


def test_a_job_that_comes_while_an_idle_thread_is_about_to_leave_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch_threads, "_IDLE_SECONDS", 0.2)
    jobs = Jobs(most=3)
    jobs.gate.set()
    jobs.add(1)
    assert eventually(lambda: jobs.done == [1])
    with jobs.turn:  # held until its time is over: it is not woken any more, and has not left yet
        time.sleep(0.5)
        assert count() == 1
        jobs.left.append(2)
        jobs.threads.hire(1)
    assert eventually(lambda: jobs.done == [1, 2], seconds=5)
    assert eventually(lambda: count() == 0)


def test_where_the_system_gives_no_more_threads_those_there_are_do_it_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start: Callable[[threading.Thread], None] = threading.Thread.start
    jobs = Jobs(most=3)

    def start_one(thread: threading.Thread) -> None:
        if count():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    jobs.add(*range(4))
    jobs.add(4)
    jobs.gate.set()
    assert eventually(lambda: jobs.done == [0, 1, 2, 3, 4])
    assert caplog.text.count("cannot start another fetching thread: can't start new thread") == 1
    with jobs.turn:
        jobs.threads.stop()
    jobs.threads.join(10)


def test_nobody_waits_longer_than_the_patience_for_a_thread_that_hangs() -> None:
    jobs = Jobs(most=1)
    jobs.add(1, 2)
    assert eventually(lambda: jobs.running == {1})
    with jobs.turn:
        jobs.threads.stop()
    jobs.threads.join(0.01)
    assert count() == 1
    jobs.gate.set()
    jobs.threads.join(10)
    assert (count(), jobs.done) == (0, [1]), "after the stop no further job is taken"
