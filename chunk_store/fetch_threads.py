"""Threads that fetch: started when there are jobs for them, ended when there have been none for a while.

Which job is next, and what it does, is the caller's (`scheduler`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from chunk_store.seldom import Seldom

_IDLE_SECONDS = 5.0  # a thread without work leaves after this: a complete mount keeps none

Job = TypeVar("Job")

log = logging.getLogger(__name__)


class FetchThreads(Generic[Job]):
    """At most so many.

    Parameters:
        turn: the caller's lock, under which jobs are chosen; notified when that may come out differently.
        most: threads at one time.
        next_job: called under *turn*; the next job, or None if there is none now.
        next_change: called under *turn* after that; seconds until there may be one without anybody having
            notified *turn*, None if never.
        run: called under no lock; does a job and raises nothing.
        ended: called under *turn*, with each job that was run.
    """

    def __init__(
        self,
        turn: threading.Condition,
        most: int,
        *,
        next_job: Callable[[], Job | None],
        next_change: Callable[[], float | None],
        run: Callable[[Job], None],
        ended: Callable[[Job], None],
    ) -> None:
        self._turn = turn
        self._most = most
        self._next_job = next_job
        self._next_change = next_change
        self._run = run
        self._ended = ended
        self._lines = Seldom()
        # Both protected by *turn*.
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stopping = False

    def hire(self, jobs: int) -> None:
        """There may be *jobs* to do: wake who is idle, and start more if there is room. Under *turn*."""
        self._turn.notify_all()
        for _ in range(min(jobs - self._idle, self._most - len(self._threads))):
            thread = threading.Thread(target=self._work, name="fetch", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # The system's limit of threads: whoever works already takes the jobs one by one.
                if self._lines.passes("threads", time.monotonic()) is not None:
                    log.warning("cannot start another fetching thread: %s", error)
                return
            self._threads.add(thread)

    def stop(self) -> None:
        """No thread takes another job. Under *turn*."""
        self._stopping = True
        self._turn.notify_all()

    def join(self, patience: float) -> None:
        """Wait at most *patience* seconds for those that still run. Under no lock, after `stop`."""
        with self._turn:
            threads = list(self._threads)
        deadline = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._turn:
                job = self._wait_for_job()
                if job is None:
                    self._threads.discard(threading.current_thread())
                    return
            try:
                self._run(job)
            finally:
                with self._turn:
                    self._ended(job)
                    self._turn.notify_all()

    def _wait_for_job(self) -> Job | None:
        """None when this thread should end."""
        while not self._stopping:
            job = self._next_job()
            if job is not None:
                return job
            change = self._next_change()
            self._idle += 1
            woken = self._turn.wait(_IDLE_SECONDS if change is None else change)
            self._idle -= 1
            if not woken and change is None:
                # Until we had *turn* again we counted as idle: a job may have come for which nobody else was
                # started, and whose notification came too late for us.
                return None if self._stopping else self._next_job()
        return None
