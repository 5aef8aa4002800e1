"""Which files of a mount were read first, in order: what a list of files to prefetch is made from.

Counts nothing and never forgets; when it is full, later files are left out and it says so.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from rafs.bootstrap import Nid

FILES_KEPT = 16384  # a container's start reads some thousands of files; each takes about 0.1 KB


class FirstRead(NamedTuple):
    """A file's first read."""

    nid: Nid
    seconds: float  # since the mount was made


class FirstReads:
    """Any number of threads may note and list: single operations on the dict are atomic."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[Nid, float] = {}

    @property
    def full(self) -> bool:
        """Whether files may have been left out."""
        return len(self._seconds) >= FILES_KEPT

    def note(self, nid: Nid) -> None:
        """The file with that inode number is read; a file with several names counts once."""
        if nid in self._seconds or self.full:
            return
        self._seconds.setdefault(nid, time.monotonic() - self._began)

    def listed(self) -> list[FirstRead]:
        """In the order of the reads."""
        return [FirstRead(nid, seconds) for nid, seconds in list(self._seconds.items())]
