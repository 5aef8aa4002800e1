"""Exact counts of what was fetched, by reason, and of what readers touched.

A window's compressed bytes, those of failed attempts included, count once, for the highest priority it had by
the time it was settled; a request counts for the priority it was made with.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

from chunk_store.latencies import Histogram, Latencies
from chunk_store.priority import Priority

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class ClassCount:
    """What one reason to fetch has cost: requests, compressed bytes, windows completed with them, and seconds
    from when each window that was completed was asked for, summed.
    """

    requests: int
    compressed_bytes: int
    windows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of an attachment.

    Windows that occur twice in the image count once; bytes are uncompressed unless their name says otherwise.
    """

    windows_total: int
    windows_present: int
    bytes_total: int
    bytes_present: int
    demand: ClassCount
    hot: ClassCount
    background: ClassCount
    touched_windows: int  # of which readers asked for at least one byte
    touched_bytes: int  # distinct 4 KiB pages that readers asked for, in bytes
    waited_seconds: float  # summed over readers
    windows_awaited: int  # that a reader waits for now
    windows_evicted: int  # that were local, went to make room, and are fetched again only when read
    copied_bytes: int  # of chunks that were taken from windows of other images instead of being fetched
    trouble: str | None  # why filling stands still, if it does

    @property
    def complete(self) -> bool:
        """Whether every window is local."""
        return self.windows_present == self.windows_total


class LatenciesNow(NamedTuple):
    """How long readers waited, and windows took from being asked for to being complete, by reason."""

    waits: Histogram
    demand: Histogram
    hot: Histogram
    background: Histogram


class Counters:
    """Thread-safe tallies of one attachment."""

    def __init__(self, windows: int, blob_sizes: list[int]) -> None:
        # Protects everything below. A leaf.
        self._lock = threading.Lock()
        self._requests = [0] * len(Priority)
        self._bytes = [0] * len(Priority)
        self._windows = [0] * len(Priority)
        self._touched_windows = bytearray(windows)
        # A byte per page: 250 KB for an image of 1 GB, and marking a read is one slice assignment.
        self._touched_pages = [bytearray(-(-size // _PAGE)) for size in blob_sizes]
        self._waits = Latencies()
        self._fills = [Latencies() for _ in Priority]
        self._copied = 0

    def request(self, priority: Priority) -> None:
        """A range was asked for."""
        with self._lock:
            self._requests[priority] += 1

    def received(self, priority: Priority, compressed_bytes: int, windows: int) -> None:
        """A window was settled that had cost *compressed_bytes*; *windows* is 1 if they completed it."""
        with self._lock:
            self._bytes[priority] += compressed_bytes
            self._windows[priority] += windows

    def touched(self, blob_index: int, offset: int, size: int) -> None:
        """A reader asked for these bytes of a blob."""
        first, last = offset // _PAGE, -(-(offset + size) // _PAGE)
        with self._lock:
            self._touched_pages[blob_index][first:last] = b"\1" * (last - first)

    def touched_window(self, number: int) -> bool:
        """A reader asked for bytes of window *number*; whether it is the first."""
        if self._touched_windows[number]:
            return False
        with self._lock:
            first = not self._touched_windows[number]
            self._touched_windows[number] = 1
        return first

    def copied(self, size: int) -> None:
        """*size* bytes of chunks were found in other windows."""
        with self._lock:
            self._copied += size

    def waited(self, seconds: float) -> None:
        """A reader waited this long."""
        self._waits.add(seconds)

    def filled(self, priority: Priority, seconds: float) -> None:
        """A window was completed, this long after it was asked for."""
        self._fills[priority].add(seconds)

    def by_class(self, priority: Priority, in_flight: int) -> ClassCount:
        """The tallies of *priority* now, with *in_flight* bytes of windows that are not settled."""
        seconds = self._fills[priority].now.seconds
        with self._lock:
            received = self._bytes[priority] + in_flight
            return ClassCount(self._requests[priority], received, self._windows[priority], seconds)

    def touched_totals(self) -> tuple[int, int]:
        """(windows, bytes) that readers asked for so far."""
        with self._lock:
            pages = sum(marks.count(1) for marks in self._touched_pages)
            return self._touched_windows.count(1), pages * _PAGE

    @property
    def copied_bytes(self) -> int:
        return self._copied

    @property
    def waited_seconds(self) -> float:
        return self._waits.now.seconds

    @property
    def latencies(self) -> LatenciesNow:
        return LatenciesNow(self._waits.now, *(fills.now for fills in self._fills))
