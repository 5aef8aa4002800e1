"""Whom the gate has refused of late: the kernel asks on for them, and they are not made to wait again.

For the page that a reader waits for, after its readahead was refused; and before that, where the readahead
goes on behind what was refused, for its rest. Used by one thread.

The kernel does not say what belongs to one call. What follows in the same window is taken for the rest.
Anything else may be the rest, in another window, or what a thread reads next whose call was all readahead
(posix_fadvise), and has no page to be asked for: it may wait a little, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chunk_store.recent_failures import GRACE_SECONDS, NOT_AT_ALL, STILL_FAILED_SECONDS, RecentFailures

_THREADS_KEPT: Final = 16384


@dataclass(slots=True)
class _Call:
    """What a thread was refused, that the kernel has not asked for the page of yet."""

    window_id: str
    end: int  # of what was refused last
    since: float
    until: float  # so long may wait what is asked for next
    at: float  # when it was refused last, or will be


class Refused:
    """Accesses that were refused after they had waited."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """*clock*: seconds that never go back."""
        self._clock = clock
        self._failures: RecentFailures[str] = RecentFailures(clock)
        self._calls: dict[int, _Call] = {}  # by thread

    def note(self, window_id: str, thread: int, start: int, end: int, since: float) -> None:
        """*thread* (0: one that cannot be seen from here), which has waited for these bytes of the window
        since then, gets an error now.
        """
        now = self._clock()
        call = self._call(thread, now) or _Call(window_id, end, since, now + GRACE_SECONDS, now)
        self._refuse(call, window_id, thread, start, end, now)

    def until(self, window_id: str, thread: int, start: int, end: int) -> float | None:
        """Until when *thread*, for which the kernel asks for these bytes of the window, may wait for them,
        as `RecentFailures.until` has it.
        """
        until = self._failures.until(window_id, thread, start)
        now = self._clock()
        call = self._call(thread, now)
        if call is None:
            return until
        if until == NOT_AT_ALL:
            # For the page: the call ends with that, and what the thread reads next it has not waited for.
            del self._calls[thread]
            return until
        is_rest = (call.window_id, call.end) == (window_id, start)
        if is_rest:
            until = NOT_AT_ALL
        else:
            until = call.until if until is None else min(until, call.until)
        if until <= now:
            # Whoever waits for a page of that has waited as long.
            self._refuse(call, window_id, thread, start, end, now)
        else:
            call.at = until
        return until

    def served(self, thread: int) -> None:
        """*thread*, which has waited, gets its bytes now: what it asks for next it has not waited for."""
        self._calls.pop(thread, None)

    def _call(self, thread: int, now: float) -> _Call | None:
        """What the thread may be in yet."""
        call = self._calls.get(thread)
        if call is not None and now - call.at >= STILL_FAILED_SECONDS:
            del self._calls[thread]
            return None
        return call

    def _refuse(self, call: _Call, window_id: str, thread: int, start: int, end: int, now: float) -> None:
        call.window_id, call.end, call.at = window_id, end, now
        self._failures.note(window_id, thread, start, end, call.since, call.until)
        if thread:
            self._calls.pop(thread, None)
            if len(self._calls) >= _THREADS_KEPT:
                del self._calls[next(iter(self._calls))]
            self._calls[thread] = call
