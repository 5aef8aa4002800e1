"""What a conversion says while it works: bars on a terminal, a line per finished step elsewhere, or nothing.

The conversion knows only the protocol. All implementations may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO

from rafs.printable import printable
from registry_client.sizes import megabytes


class Progress(Protocol):
    """Steps are known by their names, which people read; counts are bytes."""

    def begin(self, step: str, total: int | None) -> None:
        """*step* starts; *total* bytes are expected, if that is known."""

    def advance(self, step: str, count: int) -> None:
        """*count* more bytes of *step* are done."""

    def finish(self, step: str, note: str) -> None:
        """*step* is done; *note* is what came out of it, a few words."""


class SilentProgress:
    """Says nothing."""

    def begin(self, step: str, total: int | None) -> None:
        pass

    def advance(self, step: str, count: int) -> None:
        pass

    def finish(self, step: str, note: str) -> None:
        pass


class LineProgress:
    """One plain line per finished step, with its rate."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # both tables and the stream; nothing else is taken while it is held
        self._started: dict[str, float] = {}
        self._done: dict[str, int] = {}

    def begin(self, step: str, total: int | None) -> None:
        with self._lock:
            self._started[step] = time.monotonic()
            self._done[step] = 0

    def advance(self, step: str, count: int) -> None:
        with self._lock:
            self._done[step] += count

    def finish(self, step: str, note: str) -> None:
        with self._lock:
            seconds = time.monotonic() - self._started.pop(step)
            done = self._done.pop(step)
            words = [f"{megabytes(done)} in {seconds:.1f} s" if done else "", note]
            # Whom it would be told is gone, or has no room; the work goes on.
            with suppress(OSError):
                print(printable(f"{step}: {', '.join(filter(None, words))}"), file=self._stream, flush=True)


@contextmanager
def shown_progress(stream: TextIO) -> Iterator[Progress]:
    """Bars while the block runs if *stream* is a terminal, else lines."""
    if not stream.isatty():
        yield LineProgress(stream)
        return
    from builder.progress_bars import BarProgress

    with BarProgress(stream) as bars:
        yield bars
