"""What the main thread of a mount server waits for: a signal to end, or another thread that calls it.

Signals come through Python's wake-up descriptor, not through their functions. Those run in the main thread
only, between two of its bytecodes: a signal that comes when it has just begun to wait for a lock wakes
nobody.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import Final, Self

STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_CALL: Final = b"\0"  # no signal's number
_READ: Final = 512


class WakeUp(Enum):
    """Why waiting ended."""

    STOP = auto()  # SIGTERM, SIGINT or SIGHUP
    CALLED = auto()
    TIME = auto()  # it is over


class WakeUps:
    """While entered, in the main thread, signals to end are heard here and do nothing else.

    For the rest of a process: its two descriptors are never closed, because a thread may still be calling.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        # First where their numbers go, then that they go there.
        self._descriptor_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _nothing) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._before.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(self._descriptor_before)

    def call(self) -> None:
        """Wake the main thread; any thread, nothing is waited for."""
        with suppress(BlockingIOError):  # it has not even read what came before
            os.write(self._writing, _CALL)

    def wait(self, seconds: float | None = None) -> WakeUp:
        """Wait until there is a reason, at most *seconds*; calls that came meanwhile are one. Main thread."""
        deadline = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        while True:
            left = None if deadline is None else max(0.0, 1000 * (deadline - time.monotonic()))
            if not poll.poll(left):
                return WakeUp.TIME
            heard = os.read(self._reading, _READ)
            if STOPPING.intersection(heard):
                return WakeUp.STOP
            if _CALL in heard:  # else a signal that somebody else handles
                return WakeUp.CALLED


def _nothing(*_: object) -> None:
    """For signals whose number is all that is wanted."""
