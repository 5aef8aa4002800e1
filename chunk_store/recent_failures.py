"""Which waits have just failed, and whose: nobody is made to wait for the same bytes twice.

When readahead has failed the kernel asks again, for the page that a reader waits for: on behalf of whoever
asked first, and then, one behind the other, of those who have waited for the same page without the kernel
saying so. When those questions come depends on how busy the machine is. Whoever reads something else, or
later, has not waited. Serves both drivers, the keeper among them: the standard library only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

# In which the kernel has asked again for who has waited; 600 readers at once on two processors took 6.
OWN_SECONDS: Final = 10.0
# Between the questions for those who waited behind each other, after which whoever comes has not; and for how
# long such a row of them is believed in.
STILL_FAILED_SECONDS: Final = 2.0
_ROW_SECONDS: Final = 10.0
# All of them together may wait so much longer than the first, and with them whoever comes then and has not
# waited: long enough for a fetch that is tried again every 2 s.
GRACE_SECONDS: Final = 3.0
_SHORT_SECONDS: Final = 1.0  # who has waited no longer than this for a failure may as well wait anew
FAILURES_KEPT: Final = 16384
NOT_AT_ALL: Final = 0.0

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Failure:
    asker: int
    start: int
    end: int
    since: float  # somebody may have waited for these bytes from then on, and not been told before now
    at: float
    until: float  # for how long those may wait who may have waited
    told: float  # when this was the answer to somebody, last
    is_owed: bool = True  # the asker's next question is the kernel's

    @property
    def is_long(self) -> bool:
        return self.at - self.since >= _SHORT_SECONDS

    def until_for(self, asker: int, now: float) -> float | None:
        if self.asker == asker and self.is_owed and now - self.at < OWN_SECONDS:
            return NOT_AT_ALL
        row = now - self.told < STILL_FAILED_SECONDS and now - self.at < _ROW_SECONDS
        return self.until if row and self.is_long else None


class RecentFailures(Generic[Key]):
    """Failed waits for bytes of things that *Key* tells apart, by askers, who are numbers. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock*: seconds, from anywhere, that never go back."""
        self._clock = clock
        # Protects the two below. A leaf.
        self._lock = threading.Lock()
        self._failed: dict[Key, deque[_Failure]] = {}  # in the order of their latest
        self._count = 0

    def note(self, key: Key, asker: int, start: int, end: int, since: float) -> None:
        """*asker* has waited for the bytes *start* to *end* of *key* since then, and gets an error now."""
        now = self._clock()
        with self._lock:
            failures = self._failed.pop(key, None) or deque()
            while failures and now - failures[0].at >= _ROW_SECONDS:
                failures.popleft()
                self._count -= 1
            began, until = since, now + GRACE_SECONDS
            for known in failures:
                if start < known.end and known.start < end and began < known.told + STILL_FAILED_SECONDS:
                    since = min(since, known.since)
                    if known.is_long:
                        until = min(until, known.until)
            failures.append(_Failure(asker, start, end, since, now, until, now))
            self._failed[key] = failures
            self._count += 1
            self._forget(now)

    def until(self, key: Key, asker: int, start: int) -> float | None:
        """Until when *asker*, who asks for bytes of *key* from byte *start* on, may wait for them, by the
        clock; NOT_AT_ALL if it surely has waited, None if it surely has not.
        """
        if not self._failed:
            return None
        now = self._clock()
        found: float | None = None
        with self._lock:
            for failure in self._failed.get(key, ()):
                if not failure.start <= start < failure.end:
                    continue
                until = failure.until_for(asker, now)
                if until is None:
                    continue
                found = until if found is None else min(found, until)
                failure.told = now
                failure.is_owed &= failure.asker != asker
        return found

    def _forget(self, now: float) -> None:
        """Drop what is over, and the oldest if there are too many."""
        while self._failed:
            key, failures = next(iter(self._failed.items()))
            if self._count <= FAILURES_KEPT and now - failures[0].at < _ROW_SECONDS:
                return
            failures.popleft()
            self._count -= 1
            if not failures:
                del self._failed[key]

