"""When to try again: only what says it is temporary, with growing random pauses, never past the deadline.

An error is asked, not its text. Which statuses are temporary is decided in `refusal`.
"""

from __future__ import annotations

import random
import threading
import time
from email.utils import parsedate_to_datetime

from registry_client.errors import RegistryError, Unreachable
from registry_client.transport.deadline import Deadline
from registry_client.transport.wire import WireFailure

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
PROTOCOL_ATTEMPTS = 4
"""Attempts at a server that breaks the protocol: a cold cache becomes warm, a broken one stays broken."""
ASKING_ATTEMPTS = 5
"""Attempts at requests a person waits for; with the pauses above a dead host is reported after 1-2 s."""
_LONGEST_ADVICE = 3600.0  # a Retry-After of a day is as good as a refusal


class Attempts:
    """The attempts of one call. Used by one thread."""

    def __init__(self, deadline: Deadline, limit: int | None = None) -> None:
        """*limit* None: as many as the deadline allows."""
        self._deadline = deadline
        self._limit = limit
        self._failed = 0
        self._before: RegistryError | None = None

    def progressed(self) -> None:
        """Bytes came through: failures before them no longer count."""
        self._failed = 0
        self._before = None

    def pause_or_raise(self, error: RegistryError) -> None:
        """Sleep until the next attempt makes sense; raises *error* when there is none.

        Or the one before it, when *error* only says that there was no time left for another attempt.
        """
        self._failed += 1
        cause = error.__cause__
        if isinstance(cause, WireFailure) and cause.late and self._before is not None:
            error = self._before
        self._before = error
        limit = self._limit
        if not isinstance(error, Unreachable):
            limit = min(limit or PROTOCOL_ATTEMPTS, PROTOCOL_ATTEMPTS)
        if not error.temporary or (limit is not None and self._failed >= limit):
            raise error
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failed, 10))
        # Full jitter: nodes that failed together must not come back together.
        pause = max(random.uniform(longest / 4, longest), error.retry_after or 0.0)
        if pause >= self._deadline.remaining():
            raise error
        if not self._deadline.pause(pause):
            raise error


class Pace:
    """The moment before which one host asked not to be asked again; shared by all its requests."""

    __slots__ = ("_lock", "_until")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects writing _until; nothing else is taken under it
        self._until = 0.0

    def slow_down(self, seconds: float) -> None:
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)

    def wait(self, deadline: Deadline) -> None:
        """Return when asking is allowed.

        Raises:
            WireFailure: that moment lies behind the deadline; said at once, without waiting.
        """
        if not self._until:
            return
        pause = self._until - time.monotonic()
        if pause <= 0:
            return
        if pause >= deadline.remaining():
            raise WireFailure(
                f"it asked to be left alone for another {pause:.0f} s",
                advice="try again then",
                retry_after=pause,
            )
        if not deadline.pause(pause + random.uniform(0, 0.1)):
            raise WireFailure("it was closed by this program", temporary=False)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, be it a number or a date; None when absent or unreadable."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _LONGEST_ADVICE)
    try:
        moment = parsedate_to_datetime(value)
        seconds = moment.timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_ADVICE)
