"""Keeps the windows of a store within a number of bytes.

Asked before a window is begun. Room is made by removing whole windows that nothing holds, those whose image
was attached least recently first. For nobody in particular (hot list, background) only windows of images that
are not attached go, so that filling stops at the limit instead of chasing its own tail; for a reader those
of attached images go as well, and the room they leave is for readers only; if that does not help, the reader
is served from memory. Who cannot be, because he reads the file himself, gets the window beyond the limit.

Other processes' windows are counted when the directory is looked through, which is done at the limit and
every few seconds: several processes that fill at once can exceed it by what they fetch in that time.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from chunk_store.byte_size import human_size
from chunk_store.open_windows import OpenWindows
from chunk_store.seldom import Seldom
from chunk_store.standstill import LimitReached
from chunk_store.sweep import evict, windows_by_age
from chunk_store.window_file import WindowDirectory

_LOOK_SECONDS = 5.0
_REFUSAL_SECONDS = 1.0  # what was refused is refused again this long without looking: looking costs 20 ms
_LEAST_SLACK = 16  # a sixteenth of the limit is freed at once, so that not every window has to look again
_MOST_SLACK = 64 << 20

log = logging.getLogger(__name__)


class Quota:
    """The limit of one store, in this process. Thread-safe.

    Parameters:
        limit: bytes that windows may occupy; may be changed.
    """

    def __init__(
        self, root: Path, directory: WindowDirectory, open_windows: OpenWindows, limit: int
    ) -> None:
        self._root = root
        self._directory = directory
        self._open_windows = open_windows
        self.limit = limit
        self._lines = Seldom()
        # Protects the five below, and is held while windows are removed; takes their locks without waiting.
        self._lock = threading.Lock()
        self._used = limit
        self._begun: dict[str, int] = {}  # windows that are being filled here, and their length
        self._kept_free = 0  # bytes: readers made this room; filled for nobody, they would make it again
        self._look_at = 0.0
        self._refused_until = {False: 0.0, True: 0.0}

    def make_room(self, window_id: str, size: int, *, demand: bool, beyond: bool = False) -> None:
        """Return when the window's *size* bytes may be written; *demand*: because a reader waits for them;
        *beyond*: if need be beyond the limit. They count until `filled`, written or not.

        Raises:
            LimitReached: there is no room (EDQUOT).
            OSError: what keeps windows from being removed.
        """
        with self._lock:
            now = time.monotonic()
            room = size if demand else size + self._kept_free
            if self._used + room > self.limit or now >= self._look_at:
                looked = now < self._refused_until[demand]
                if looked and not beyond:
                    raise self._refusal()
                if not looked:
                    self._free(room, demand)
                    self._look_at = now + _LOOK_SECONDS
            if self._used + room > self.limit:
                self._refused_until[demand] = max(self._refused_until[demand], now + _REFUSAL_SECONDS)
                if not beyond:
                    raise self._refusal()
                if self._lines.passes("beyond", now) is not None:
                    log.warning("%s; what is read of kernel mounts goes beyond it", self._refusal().strerror)
            if not demand:
                self._kept_free = 0  # there is more than readers made: something else went
            self._used += size
            self._begun[window_id] = size

    def filled(self, window_ids: Iterable[str]) -> None:
        """Nobody here writes to these windows any more: only what lies on the disk counts."""
        with self._lock:
            for window_id in window_ids:
                self._begun.pop(window_id, None)

    def _free(self, size: int, demand: bool) -> None:
        kept = windows_by_age(self._directory, self._root)
        there = {one.window_id: one.size for one in kept}
        self._used = sum((there | self._begun).values())
        excess = self._used + size - self.limit
        if excess <= 0:
            return
        # What this process read last is still open here, and goes last.
        recent = self._open_windows.by_age()
        order = {window_id: place for place, window_id in enumerate(recent, start=1)}
        candidates = sorted(
            (one for one in kept if demand or not one.use.live), key=lambda one: order.get(one.window_id, 0)
        )
        gone, _ = evict(
            self._directory,
            candidates,
            enough=max(excess, min(self.limit // _LEAST_SLACK, _MOST_SLACK)),
            before=self._open_windows.forget,
        )
        self._used -= sum(one.size for one in gone)
        if demand and any(one.use.live for one in gone):
            self._kept_free = self.limit - self._used

    def _refusal(self) -> LimitReached:
        return LimitReached(
            errno.EDQUOT,
            f"the cache has reached its limit of {human_size(self.limit)} and nothing in it can go",
        )
