"""Whether a mirror is worth asking: remembered failures, and a probe of its own before it is asked again.

So that a dead mirror costs the readers that found out, and nobody after them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
FAILURES = 2
"""Failures in a row after which a mirror is left."""
FIRST_REST = 5.0
LONGEST_REST = 300.0
WRONG_BYTES_REST = 600.0
"""Seconds for which a mirror that served wrong bytes is not asked for anything."""
ABSENCE_MEMORY = 60.0
"""Seconds for which a mirror that lacks some content is not asked for that again."""
_REMEMBERED = 1024


class Health:
    """Of one mirror; all methods from any thread."""

    def __init__(self, name: str, probe: Callable[[], bool]) -> None:
        """*probe* says whether it answers; called in a thread of its own."""
        self._name = name
        self._probe = probe
        self._lock = threading.Lock()  # protects all below; nothing else is taken under it
        self._failures = 0
        self._rest = FIRST_REST
        self._until: float | None = None
        self._probing = False
        self._refused: dict[str, float] = {}

    def usable(self, digest: str | None) -> bool:
        """Whether to ask it for *digest* (None: for a tag) now."""
        if self._until is not None:
            self._consider_probing()
            return False
        if not self._refused or digest is None:
            return True
        until = self._refused.get(digest)
        return until is None or time.monotonic() >= until

    @property
    def resting(self) -> bool:
        """Whether it has been left."""
        return self._until is not None

    def succeeded(self) -> None:
        if self._failures or self._until is not None:
            with self._lock:
                self._failures, self._rest = 0, FIRST_REST

    def failed(self, why: object, *, rest: float | None = None) -> None:
        """It did not do what it is for; with *rest* it is left for that many seconds at once."""
        with self._lock:
            self._failures += 1
            if self._until is not None or (rest is None and self._failures < FAILURES):
                return
            seconds = rest if rest is not None else self._next_rest()
            self._until = time.monotonic() + seconds
        _log.warning("%s is left for %.0f s: %s", self._name, seconds, why)

    def lacks(self, digest: str, seconds: float = ABSENCE_MEMORY) -> None:
        """It does not have *digest*, or has something else in its place."""
        with self._lock:
            if len(self._refused) >= _REMEMBERED:
                self._refused.clear()
            self._refused[digest] = time.monotonic() + seconds

    def _next_rest(self) -> float:
        rest = self._rest * random.uniform(0.8, 1.2)
        self._rest = min(2 * self._rest, LONGEST_REST)
        return rest

    def _consider_probing(self) -> None:
        with self._lock:
            if self._probing or self._until is None or time.monotonic() < self._until:
                return
            self._probing = True
        threading.Thread(target=self._look, name="mirror-probe", daemon=True).start()

    def _look(self) -> None:
        well = False
        try:
            well = self._probe()
        finally:
            with self._lock:
                self._probing = False
                if well:
                    self._until, self._failures = None, FAILURES - 1
                else:
                    self._until = time.monotonic() + self._next_rest()
        if well:
            _log.info("%s answers again", self._name)
