"""A path for an inode's number, for logs and traces: the kernel asks by number, people think in paths.

Nothing is kept for inodes that are only looked up or read. The first question walks through the image once
and keeps 16 bytes for each inode; a file with several names gets the one that comes first.
"""

from __future__ import annotations

import stat
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress

from rafs.bootstrap import Bootstrap, Nid
from rafs.errors import RafsError


class Names:
    """Paths of one image. Thread-safe."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
        # Held while the image is walked through. A leaf.
        self._lock = threading.Lock()
        self._numbers: array[int] | None = None  # ascending
        self._parents = array("Q")  # of each, the directory that has its first name

    def paths(self, nids: Iterable[Nid]) -> list[bytes]:
        """A path of each, or `<inode N>` where the image is too broken to tell, or nothing leads there."""
        listings: dict[Nid, dict[Nid, bytes]] = {}
        return [self._path(nid, listings) for nid in nids]

    def _path(self, nid: Nid, listings: dict[Nid, dict[Nid, bytes]]) -> bytes:
        """*listings* has the names in directories that were looked at before."""
        names: list[bytes] = []
        below = nid
        try:
            while below != self._bootstrap.root_nid:
                parent = self._parent(below)
                if parent not in listings:
                    entries = list(self._bootstrap.entries(self._bootstrap.inode(parent)))
                    listings[parent] = {
                        one: name for name, one, _ in reversed(entries) if name not in (b".", b"..")
                    }
                names.append(listings[parent][below])
                below = parent
        except (RafsError, LookupError):
            return b"<inode %d>" % nid
        return b"/" + b"/".join(reversed(names))

    def _parent(self, nid: Nid) -> Nid:
        """
        Raises:
            LookupError: no directory has it.
        """
        with self._lock:
            if self._numbers is None:
                self._walk()
            numbers = self._numbers
        assert numbers is not None, "walked"
        place = bisect_left(numbers, nid)
        if place == len(numbers) or numbers[place] != nid:
            raise LookupError(nid)
        return Nid(self._parents[place])

    def _walk(self) -> None:
        """A directory that is reached twice is entered once, so this ends whatever the image says."""
        bootstrap = self._bootstrap
        parents: dict[int, int] = {}
        waiting = [bootstrap.root_nid]
        for directory_nid in waiting:
            # What is broken has no names.
            with suppress(RafsError):
                directory = bootstrap.inode(directory_nid)
                if not stat.S_ISDIR(directory.mode):
                    continue
                for name, nid, _ in bootstrap.entries(directory):
                    if name in (b".", b"..") or nid in parents or nid == bootstrap.root_nid:
                        continue
                    parents[nid] = directory_nid
                    waiting.append(nid)
        self._numbers = array("Q", sorted(parents))
        self._parents = array("Q", (parents[nid] for nid in self._numbers))
