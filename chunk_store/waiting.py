"""How many readers' windows are on the way in a whole process, so that all its attachments yield to them.

Serves the schedulers: each counts its own here and looks at the sum.
"""

from __future__ import annotations

import threading


class Waiting:
    """A number that many schedulers change. Thread-safe."""

    def __init__(self) -> None:
        # Protects the number. A leaf.
        self._lock = threading.Lock()
        self._windows = 0

    def add(self, windows: int) -> None:
        """So many more, or fewer, windows are waited for."""
        with self._lock:
            self._windows += windows

    @property
    def windows(self) -> int:
        """Windows that some reader of this process waits for."""
        return self._windows
