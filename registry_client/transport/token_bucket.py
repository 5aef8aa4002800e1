"""How often something may be done: so many times at once, and then so many times a second.

Waits for nobody and knows nothing of what is limited: it says how long to wait.
"""

from __future__ import annotations

import threading
import time


class TokenBucket:
    """Full at first. `take` from any thread."""

    def __init__(self, rate: float, burst: int) -> None:
        """*rate*: tokens a second; *burst*: how many there can be at most."""
        self._rate = rate
        self._burst = float(burst)
        self._left = float(burst)
        self._counted = time.monotonic()
        self._lock = threading.Lock()  # protects the two above; nothing else is taken under it

    def take(self, longest: float) -> float:
        """Take a token; the seconds until it is there, for which the caller waits.

        Nothing was taken if they are *longest* or more.
        """
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._counted) * self._rate)
            self._counted = now
            wait = max(1 - self._left, 0.0) / self._rate
            if wait < longest:
                self._left -= 1
        return wait
