"""The failures of a mount in its log: a line for each, with the path; of many like it in a minute the number.

Serves both ways to serve a mount. What is a failure is `answers`' to say.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from chunk_store.seldom import Seldom
from fuse_fs.answers import is_failure
from rafs.directory import name_text

# Of one kind in a minute: whoever reads a broken image in a loop writes 10 MB a day, not one a second.
MOST: Final = 20

log = logging.getLogger("nopull.fuse")


class FailureLines:
    """Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock*: seconds, from anywhere, that never go back."""
        self._clock = clock
        self._seldom = Seldom(MOST)

    def note(self, doing: str, error: BaseException, path: Callable[[], bytes]) -> None:
        """*doing* that to what has *path*, which costs time to find out, ended with *error*; not every error
        is a failure.
        """
        if not is_failure(error):
            return

        def say() -> None:
            where = name_text(path())
            what = (doing, where, type(error).__name__, error)
            log.error("%s %s: %s: %s", *what, extra={"path": where})

        self.limit(f"{type(error).__name__} {type(error.__cause__).__name__}", say)

    def limit(self, kind: str, say: Callable[[], None]) -> None:
        """Call *say*, which logs a line of that kind, unless there were too many like it."""
        left_out = self._seldom.passes(kind, self._clock())
        if left_out is None:
            return
        say()
        if left_out:
            log.error("%d more failures like this one were left out before it", left_out)
