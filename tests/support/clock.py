"""A clock for what asks for the time."""

from __future__ import annotations


class Clock:
    """Seconds that pass when the test says so: in place of `time`, or of its `monotonic`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    __call__ = monotonic
