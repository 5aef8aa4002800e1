"""Windows that the store did not take, kept in memory for a while, so that reading one does not fetch it once
per page.

Bounded in bytes, least recently used out first. Serves `Attachment.read` while the disk is full or the cache
read-only.
"""

from __future__ import annotations

import threading
from collections import OrderedDict


class MemoryWindows:
    """At most *limit* bytes of windows, by id; the newest is kept even if it alone is larger. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Protects the two below. A leaf.
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, bytearray] = OrderedDict()
        self._size = 0

    def put(self, window_id: str, content: bytearray) -> None:
        """Keep *content*, which nobody may change any more."""
        with self._lock:
            self._size += len(content) - len(self._windows.pop(window_id, b""))
            self._windows[window_id] = content
            while self._size > self._limit and len(self._windows) > 1:
                _, oldest = self._windows.popitem(last=False)
                self._size -= len(oldest)

    def get(self, window_id: str) -> bytearray | None:
        """The window, if it is still kept."""
        with self._lock:
            content = self._windows.get(window_id)
            if content is not None:
                self._windows.move_to_end(window_id)
            return content

    def forget(self, window_id: str) -> None:
        """Keep it no longer."""
        with self._lock:
            self._size -= len(self._windows.pop(window_id, b""))
