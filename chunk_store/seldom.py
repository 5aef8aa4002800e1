"""How often the same is worth a line in the log: what fails goes on failing, and the log lies on the disk
that it would fill.

Pure bookkeeping: times are given, in seconds of the monotonic clock. Serves whoever logs what can repeat
itself without end.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

SECONDS = 60.0


@dataclass(slots=True)
class _Kind:
    until: float  # then its time begins anew
    said: int = 1
    left_out: int = 0


class Seldom:
    """Lets *most* of each kind pass in a minute, and counts the others. Kinds are few. Thread-safe."""

    def __init__(self, most: int = 1) -> None:
        self._most = most
        # Protects the one below. A leaf.
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}

    def passes(self, kind: str, now: float) -> int | None:
        """How many of this kind were left out since one passed; None: this one is left out, too."""
        with self._lock:
            known = self._kinds.get(kind)
            if known is None or now >= known.until:
                self._kinds[kind] = _Kind(now + SECONDS)
                return 0 if known is None else known.left_out
            if known.said < self._most:
                known.said += 1
                return 0
            known.left_out += 1
            return None
