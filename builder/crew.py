"""Threads that work for one conversion, where the first failure of any stops all.

A thread pool alone would let a broken last layer wait for all others to be packed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class GivenUp(Exception):
    """Somebody else failed, or the user interrupts; there is nothing to say about it."""


class Crew:
    """Pools of threads for one `with` block; leaving it stops and waits for all of them."""

    def __init__(self) -> None:
        self._pools = ExitStack()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None  # of the first; written once, read without a lock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._pools.close()

    def pool(self, threads: int, name: str) -> ThreadPoolExecutor:
        """A pool that lives as long as the crew."""
        pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._pools.callback(pool.shutdown, cancel_futures=True)
        return pool

    def submit(
        self, pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """As `pool.submit`, and a failure of *work* reaches everybody's next `check`."""
        future = pool.submit(work, *args, **kwargs)
        future.add_done_callback(self._note)
        return future

    def check(self) -> None:
        """Return while all is well; called between small pieces of work.

        Raises:
            GivenUp: the block is being left. Else whatever the first failed work raised.
        """
        if self._failure is not None:
            raise self._failure
        if self._stopped.is_set():
            raise GivenUp

    def _note(self, future: Future[T]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None and self._failure is None:
            self._failure = error
