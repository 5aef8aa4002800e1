"""One point in time by which a call has to be over, however many attempts, tokens and redirects it takes."""

from __future__ import annotations

import threading
import time


class Deadline:
    """*seconds* from now, on the monotonic clock, or when *closing* is set. Used by one thread at a time."""

    __slots__ = ("_closing", "_end", "seconds")

    def __init__(self, seconds: float, closing: threading.Event | None = None) -> None:
        self.seconds = seconds
        self._closing = closing
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; zero or less when it has passed."""
        return self._end - time.monotonic()

    def renew(self) -> None:
        """Start over: progress was made on something too long for a total deadline."""
        self._end = time.monotonic() + self.seconds

    def part(self, seconds: float) -> Deadline:
        """A deadline of *seconds* from now that ends no later than this one."""
        return Deadline(min(seconds, self.remaining()), self._closing)

    def pause(self, seconds: float) -> bool:
        """Sleep; False if it was cut short because what this is for is being closed."""
        if self._closing is None:
            time.sleep(seconds)
            return True
        return not self._closing.wait(seconds)
