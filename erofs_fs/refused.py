"""Whom the gate has refused of late: the kernel asks on for them, and they are not made to wait again.

For the page that a reader waits for, after its readahead was refused; and before that, where the readahead
goes on behind what was refused, for its rest, which may lie in another window. Used by one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chunk_store.recent_failures import NOT_AT_ALL, RecentFailures

READAHEAD_SECONDS: Final = 5.0  # in which the kernel has asked for the rest of it
_PROCESSES_KEPT: Final = 4096


class Refused:
    """Accesses that were refused after they had waited."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """*clock*: seconds that never go back."""
        self._clock = clock
        self._failures: RecentFailures[str] = RecentFailures(clock)
        # Processes for which the kernel has not asked for the page yet: for how many accesses, since when.
        self._in_readahead: dict[int, tuple[int, float]] = {}

    def note(self, window_id: str, pid: int, start: int, end: int, since: float) -> None:
        """Process *pid* (0: one that cannot be seen from here), which has waited for these bytes of the
        window since then, gets an error now.
        """
        now = self._clock()
        self._failures.note(window_id, pid, start, end, since)
        accesses, _ = self._in_readahead.pop(pid, (0, now))
        if len(self._in_readahead) >= _PROCESSES_KEPT:
            del self._in_readahead[next(iter(self._in_readahead))]
        if pid:
            self._in_readahead[pid] = (accesses + 1, now)

    def until(self, window_id: str, pid: int, start: int) -> float | None:
        """Until when *pid*, for whom the kernel asks for the window's bytes from *start* on, may wait for
        them, as `RecentFailures.until` has it.
        """
        until = self._failures.until(window_id, pid, start)
        accesses, at = self._in_readahead.get(pid, (0, 0.0))
        if accesses and until == NOT_AT_ALL:
            # For the page: the call ends with that, and what the process reads next it has not waited for.
            del self._in_readahead[pid]
            if accesses > 1:
                self._in_readahead[pid] = (accesses - 1, at)
        elif accesses and self._clock() - at < READAHEAD_SECONDS:
            return NOT_AT_ALL
        return until
