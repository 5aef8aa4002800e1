"""How long something took, many times: a histogram with fixed bounds, in Prometheus' cumulative sense."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import NamedTuple

# Seconds. Local reads end in the first few, a round trip with a window at 0.05 to 0.1; 30 is the deadline.
BOUNDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Histogram(NamedTuple):
    """A moment of it."""

    counts: tuple[int, ...]  # by BOUNDS, not summed up; the last is of what took longer than all
    seconds: float  # summed


class Latencies:
    """Thread-safe."""

    def __init__(self) -> None:
        # Protects the two below. A leaf.
        self._lock = threading.Lock()
        self._counts = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """It took *seconds* once more."""
        place = bisect_left(BOUNDS, seconds)
        with self._lock:
            self._counts[place] += 1
            self._seconds += seconds

    @property
    def now(self) -> Histogram:
        """What there has been so far."""
        with self._lock:
            return Histogram(tuple(self._counts), self._seconds)
