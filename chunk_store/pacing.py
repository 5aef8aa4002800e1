"""How much may be fetched for nobody in particular, and when: pure bookkeeping of times and failures.

Knows no windows. The scheduler calls it under its lock and passes `time.monotonic()`, so a clock that jumps
changes nothing.
"""

from __future__ import annotations

from chunk_store.limits import Limits
from chunk_store.seldom import Seldom

_RETRY_SECONDS = 1.0  # between looks at windows that another process was filling
_FIRST_REST = 0.5  # seconds that everything but demand rests after the remote failed it; doubled each time
_LONGEST_REST = 10.0
_DISK_SECONDS = 30.0  # between two ranges fetched to find out whether a full disk has room again


class Pacing:
    """The pace of hot list and background. All times in seconds of the monotonic clock."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._start_over = now + limits.start_seconds
        self._rest = _FIRST_REST
        self._rests_until = 0.0
        self._busy_until = 0.0
        self._retries_at = 0.0
        self._disk_until = 0.0
        self._lines = Seldom()

    def hot_room(self, now: float, awaited: int) -> int:
        """With fewer ranges than this in flight the hot list may start one; *awaited*: windows waited for."""
        if now < self._rests_until:
            return 0
        return self._limits.hot_while_waiting if awaited else self._limits.bulk_connections

    def background_room(self, now: float, awaited: int) -> int:
        """The same for a range of the background."""
        if awaited or now < self._rests_until:
            return 0
        if now >= self._busy_until:
            return self._limits.bulk_connections
        return self._limits.background_while_busy if now >= self._start_over else 0

    def answered(self, now: float) -> None:
        """A reader was answered and is likely to ask for more."""
        starting = now < self._start_over
        self._busy_until = now + (self._limits.start_busy_seconds if starting else self._limits.busy_seconds)

    def remote_failed(self, now: float, wanted: float = 0.0) -> None:
        """A range that nobody waited for failed, or any range for no reason that was thought of; the remote
        wants to be left alone for *wanted* seconds.
        """
        if now >= self._rests_until:  # ranges that fail together count once
            self._rests_until = now + max(self._rest, wanted)
            self._rest = min(2 * self._rest, _LONGEST_REST)

    def remote_works(self) -> None:
        """A window arrived."""
        self._rest = _FIRST_REST
        self._rests_until = 0.0

    def may_retry(self, now: float) -> bool:
        """Whether it is time to look again at windows that were set aside; if so, the next time is later."""
        if now < self._retries_at:
            return False
        self._retries_at = now + _RETRY_SECONDS
        return True

    def disk_refused(self, now: float) -> bool:
        """The file system took no more; whether to say so, which is not worth a line each time: room for one
        small window comes and goes.
        """
        self._disk_until = now + _DISK_SECONDS
        return self._lines.passes("disk", now) is not None

    def may_try_disk(self, now: float) -> bool:
        """Whether enough time has gone by since the file system refused to try it with a range again."""
        return now >= self._disk_until

    def may_trace(self, kind: type[BaseException], now: float) -> bool:
        """Whether the traceback of an error of this kind is worth its lines; if so, the next one is not."""
        return self._lines.passes(kind.__name__, now) is not None

    def next_change(self, now: float) -> float | None:
        """Seconds until one of the answers above may be another; None if only events change them."""
        times = [
            at for at in (self._rests_until, self._retries_at, self._busy_until, self._disk_until) if at > now
        ]
        return min(times) - now if times else None
