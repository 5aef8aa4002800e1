"""Which reads have just failed: whoever has waited for one once is not made to wait for it again.

After readahead has failed the kernel asks once more, at once, for the page a reader waits for. That reader
has waited already; whoever reads later than this tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

STILL_FAILED_SECONDS = 0.25
FAILURES_KEPT = 64

Key = TypeVar("Key", bound=Hashable)


class RecentFailures(Generic[Key]):
    """The latest failed read of each file, by whatever tells files apart; of some files, when many fail.

    Any number of threads may note and ask: single operations on the dict are atomic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock*: seconds, from anywhere, that never go back."""
        self._clock = clock
        self._failed: dict[Key, tuple[int, int, float]] = {}  # start, end and time of the read

    def note(self, key: Key, offset: int, size: int) -> None:
        """Reading *size* bytes from byte *offset* has failed now."""
        if len(self._failed) >= FAILURES_KEPT:
            self._failed.clear()
        self._failed[key] = (offset, offset + size, self._clock())

    def covers(self, key: Key, offset: int) -> bool:
        """Whether byte *offset* was in a read that has just failed."""
        latest = self._failed.get(key)
        if latest is None:
            return False
        start, end, when = latest
        return start <= offset < end and self._clock() - when < STILL_FAILED_SECONDS
