"""One point in time by which a call has to be over, however many attempts, tokens and redirects it takes."""

from __future__ import annotations

import time


class Deadline:
    """*seconds* from now, on the monotonic clock. Used by one thread at a time."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; zero or less when it has passed."""
        return self._end - time.monotonic()

    def renew(self) -> None:
        """Start over: progress was made on something too long for a total deadline."""
        self._end = time.monotonic() + self.seconds
