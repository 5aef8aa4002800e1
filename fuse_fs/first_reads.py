"""Which files of a mount were read first, in order: what a list of files to prefetch is made from.

Counts nothing and never forgets; when it is full, later files are left out and it says so.
"""

from __future__ import annotations

import time
from typing import NamedTuple

# A container's start reads some thousands of files; a path and its entry take about 0.2 KB.
FILES_KEPT = 16384
PATH_BYTES_KEPT = 2 << 20


class FirstRead(NamedTuple):
    """A file's first read."""

    path: bytes
    seconds: float  # since the mount was made
    size: int  # of the file, in bytes


class FirstReads:
    """Any number of threads may note and list: single operations on the dict are atomic."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._by_number: dict[int, FirstRead] = {}
        self._path_bytes = 0

    @property
    def full(self) -> bool:
        """Whether files may have been left out."""
        return len(self._by_number) >= FILES_KEPT or self._path_bytes >= PATH_BYTES_KEPT

    def note(self, number: int, path: bytes, size: int) -> None:
        """The file with inode *number* is read; a file with several names counts once."""
        if number in self._by_number or self.full:
            return
        self._by_number.setdefault(number, FirstRead(path, time.monotonic() - self._began, size))
        self._path_bytes += len(path)

    def listed(self) -> list[FirstRead]:
        """In the order of the reads."""
        return list(self._by_number.values())
