"""Which waits have just failed, and whose: nobody is made to wait for the same bytes twice.

When readahead has failed the kernel asks again, for the page that a reader waits for: on behalf of whoever
asked first, and then, one behind the other, of those who have waited for the same page without the kernel
saying so. When those questions come depends on how busy the machine is. Whoever reads something else, or
later, has not waited. Serves both drivers, the keeper among them: the standard library only.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_right
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

_OWED_KEPT: Final = 64  # of one asker and key: they are looked through one by one

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Failure(Generic[Key]):
    """What one asker has waited for; its next question for that is the kernel's."""

    key: Key
    asker: int
    start: int
    end: int
    at: float


@dataclass(slots=True)
class _Row:
    """Bytes that several have waited for, perhaps, one behind the other; no two of a key overlap."""

    start: int
    end: int
    since: float  # somebody may have waited for these bytes from then on, and not been told before now
    until: float  # for how long those may wait who may have waited
    at: float  # the latest failure
    told: float  # when this was the answer to somebody, last

    @property
    def is_long(self) -> bool:
        return self.at - self.since >= _SHORT_SECONDS


class RecentFailures(Generic[Key]):
    """Failed waits for bytes of things that *Key* tells apart, by askers, who are numbers. Thread-safe.

    What a call costs does not depend on how many others have failed: thousands may at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock*: seconds, from anywhere, that never go back."""
        self._clock = clock
        # Protects what follows. A leaf.
        self._lock = threading.Lock()
        self._failed: deque[_Failure[Key]] = deque()  # the oldest first
        self._owed: dict[tuple[Key, int], list[_Failure[Key]]] = {}  # those not asked for since, by asker
        self._rows: dict[Key, list[_Row]] = {}  # by their start

    def note(
        self, key: Key, asker: int, start: int, end: int, since: float, until: float = math.inf
    ) -> None:
        """*asker* has waited for the bytes *start* to *end* of *key* since then, and gets an error now; who
        has waited behind it may wait until then at the longest.
        """
        now = self._clock()
        failure = _Failure(key, asker, start, end, now)
        row = _Row(start, end, since, min(until, now + GRACE_SECONDS), now, now)
        with self._lock:
            while self._failed and (now - self._failed[0].at >= _ROW_SECONDS or self._is_full()):
                self._forget_oldest()
            self._failed.append(failure)
            owed = self._owed.setdefault((key, asker), [])
            del owed[: len(owed) + 1 - _OWED_KEPT]
            owed.append(failure)
            self._join(self._rows.setdefault(key, []), row)

    def until(self, key: Key, asker: int, start: int) -> float | None:
        """Until when *asker*, who asks for bytes of *key* from byte *start* on, may wait for them, by the
        clock; NOT_AT_ALL if it surely has waited, None if it surely has not.
        """
        if not self._failed:
            return None
        now = self._clock()
        with self._lock:
            rows = self._rows.get(key, [])
            place = _place(rows, start)
            row = rows[place] if place < len(rows) and rows[place].start <= start else None
            if self._take_owed(key, asker, start, now):
                if row is not None:
                    row.told = now
                return NOT_AT_ALL
            if row is None or now - row.told >= STILL_FAILED_SECONDS or now - row.at >= _ROW_SECONDS:
                return None
            if not row.is_long:
                return None
            row.told = now
            return row.until

    def _take_owed(self, key: Key, asker: int, start: int, now: float) -> bool:
        """Whether the asker has waited for that byte, and the kernel has not asked on its behalf since."""
        owed = self._owed.get((key, asker), [])
        asked = [one for one in owed if one.start <= start < one.end]
        for failure in asked:
            owed.remove(failure)
        if not owed:
            self._owed.pop((key, asker), None)
        return any(now - failure.at < OWN_SECONDS for failure in asked)

    @staticmethod
    def _join(rows: list[_Row], row: _Row) -> None:
        """Add *row*, into which goes what overlaps it."""
        began = row.since
        first = after = _place(rows, row.start)
        while after < len(rows) and rows[after].start < row.end:
            known = rows[after]
            after += 1
            row.start, row.end = min(row.start, known.start), max(row.end, known.end)
            if began < known.told + STILL_FAILED_SECONDS:
                row.since = min(row.since, known.since)
                if known.is_long:
                    row.until = min(row.until, known.until)
        rows[first:after] = [row]

    def _is_full(self) -> bool:
        return len(self._failed) >= FAILURES_KEPT

    def _forget_oldest(self) -> None:
        failure = self._failed.popleft()
        owed = self._owed.get((failure.key, failure.asker), [])
        if failure in owed:
            owed.remove(failure)
            if not owed:
                del self._owed[failure.key, failure.asker]
        rows = self._rows.get(failure.key, [])
        place = _place(rows, failure.start)
        # It is in there unless that was forgotten with a later one.
        if place < len(rows) and rows[place].start <= failure.start and rows[place].at <= failure.at:
            del rows[place]
            if not rows:
                del self._rows[failure.key]


def _place(rows: list[_Row], start: int) -> int:
    """Where the row is that has the byte *start*, or else the first behind it."""
    place = bisect_right(rows, start, key=lambda row: row.start)
    return place - 1 if place and start < rows[place - 1].end else place
