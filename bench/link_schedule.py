"""When a packet arrives at the far end of a link: pure arithmetic over a clock that the caller owns.

No sockets, no time source, no threads. Serves the TUN link and the shaping proxy, and can be tested
with an invented clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkShape:
    """What a link does to a packet: one way delay in seconds, bits per second, and its queue.

    A packet that would have to wait longer than *queue_seconds* before it can be sent is dropped,
    as a router with a full buffer does. 50 ms is what `tbf latency 50ms` keeps.
    """

    delay_seconds: float
    bits_per_second: float
    queue_seconds: float = 0.05

    def __str__(self) -> str:
        return f"{2000 * self.delay_seconds:.0f} ms, {self.bits_per_second / 1e6:.0f} Mbit/s"

    def floor_seconds(self, size: int) -> float:
        """Return the least time *size* bytes need: one round trip to ask, then the line rate."""
        return 2 * self.delay_seconds + 8 * size / self.bits_per_second


DEMO_LINK = LinkShape(delay_seconds=0.010, bits_per_second=200e6)


class Direction:
    """One direction of a link: packets leave one after the other at the line rate.

    Times are seconds of the caller's clock, which must not run backwards. Not thread-safe.
    """

    __slots__ = ("_free_at", "_shape", "dropped", "sent")

    def __init__(self, shape: LinkShape) -> None:
        self._shape = shape
        self._free_at = 0.0
        self.sent = 0
        self.dropped = 0

    def admit(self, now: float, size: int) -> float | None:
        """Return when a packet of *size* bytes that came at *now* is delivered; None: it is dropped."""
        start = max(now, self._free_at)
        if start - now > self._shape.queue_seconds:
            self.dropped += 1
            return None
        self._free_at = start + 8 * size / self._shape.bits_per_second
        self.sent += size
        return self._free_at + self._shape.delay_seconds
