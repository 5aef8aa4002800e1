"""The threads that carry one mount's requests: one waits at the device, and hands on before it may wait.

A request that waits for nothing is answered by whoever has read it, so that a walk through the tree costs no
change of threads. One that may wait for the disk or the network is answered after another thread has taken
over the device: so nothing waits behind it, whatever it waits for. When there are as many threads as there
may be, the last stays at the device, and what may wait does so until one of the others is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from chunk_store.seldom import Seldom

log = logging.getLogger("nopull.fuse")

MOST = 2048  # each waits for one read, and takes some 25 KB meanwhile
IDLE = 3  # that wait for their turn at the device; more than this have nothing to do and end

Work = Callable[[], object]
Result = TypeVar("Result")


class Crew:
    """Threads that call *receive*, one at a time, and then what it returned, all at once.

    *receive* returns what has to be done that may wait, or None when there will be no more. An error of
    either is logged and ends nothing but its request.
    """

    def __init__(self, receive: Callable[[], Work | None], ended: Callable[[], None]) -> None:
        """*ended* is called once, by one of the threads, after *receive* has returned None."""
        self._receive = receive
        self._ended = ended
        self._over = False
        self._lines = Seldom()
        # Whoever holds it may call `receive`. Held for as long as that waits.
        self._turn = threading.Lock()
        # Protects the three below. A leaf.
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._waiting = 0  # for their turn, or having it
        self._left: deque[Work] = deque()  # for whoever is done first

    @property
    def is_full(self) -> bool:
        """Whether nobody is free to do what `receive` returns; for *receive* itself."""
        with self._lock:
            return self._is_full()

    def start(self) -> None:
        """Begin with one thread; the others come when they are needed."""
        self._hire()

    def join(self, seconds: float) -> None:
        """Wait until all have ended, but no longer than that for each."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            with suppress(RuntimeError):  # it is being started just now, and finds that all is over
                thread.join(seconds)

    def _hire(self) -> None:
        thread = threading.Thread(target=self._work, name="fuse", daemon=True)
        with self._lock:
            self._threads.add(thread)
            self._waiting += 1
        try:
            thread.start()
        except RuntimeError as error:
            # The system's limit of threads: those that there are take the requests one by one.
            if self._lines.passes("threads", time.monotonic()) is not None:
                log.warning("cannot start another thread for the mount: %s", error)
            with self._lock:
                self._threads.discard(thread)
                self._waiting -= 1

    def _work(self) -> None:
        while True:
            with self._turn:
                work = None if self._over else self._attempt(self._receive)
                if work is None:
                    first, self._over = not self._over, True
                    self._left.clear()
                    break
                with self._lock:
                    if self._is_full():
                        self._left.append(work)
                        continue
                    self._waiting -= 1
                    short = not self._waiting
            if short:
                self._hire()
            while work is not None:
                self._attempt(work)
                with self._lock:
                    work = self._left.popleft() if self._left else None
                    if work is None:
                        if self._waiting > IDLE:
                            self._threads.discard(threading.current_thread())
                            return
                        self._waiting += 1
        if first:
            self._ended()

    def _is_full(self) -> bool:
        return self._waiting == 1 and len(self._threads) >= MOST

    def _attempt(self, work: Callable[[], Result]) -> Result | Callable[[], None]:
        """What *work* returns; nothing to do if it fails, which is a defect that may cost a request but no
        more."""
        try:
            return work()
        except Exception:
            if self._lines.passes("requests", time.monotonic()) is not None:
                log.exception("answering a request failed")
            return lambda: None
