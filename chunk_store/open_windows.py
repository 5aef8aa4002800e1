"""A bounded set of open window files that many threads read at once.

Keeps the most recently used descriptors; one that is being read is never closed under its reader. Does not
know which windows are complete beyond the length check at opening. Serves `Attachment.read`.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from chunk_store.window_file import WindowDirectory

DESCRIPTORS = 256  # a quarter of the usual soft limit of 1024, which sockets, locks and libfuse share with us


class _Open:
    __slots__ = ("doomed", "fd", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 1
        self.doomed = False


class OpenWindows:
    """Reads window files through at most *limit* descriptors (plus one for each read under way)."""

    def __init__(self, directory: WindowDirectory, limit: int = DESCRIPTORS) -> None:
        self._directory = directory
        self._limit = limit
        # Protects the table and every entry's fields. A leaf: nothing else is taken, opened or closed while
        # it is held.
        self._lock = threading.Lock()
        self._table: OrderedDict[str, _Open] = OrderedDict()

    def read_into(
        self, into: memoryview, window_id: str, length: int, offset: int, *, from_disk: bool
    ) -> bool:
        """Whether *into* was filled with what is at *offset* of the window; if not *from_disk*, then without
        waiting for the disk: the file has to be open and these bytes in the page cache.
        """
        entry = self._take(window_id) or (self._open(window_id, length) if from_disk else None)
        if entry is None:
            return False
        try:
            return os.preadv(entry.fd, [into], offset, 0 if from_disk else os.RWF_NOWAIT) == len(into)
        except OSError:
            return False  # not cached, a file system that cannot tell, or an unreadable sector
        finally:
            self._release(entry)

    def read(self, window_id: str, length: int, offset: int, size: int) -> bytes | None:
        """Return exactly *size* bytes at *offset* of the window; None if they are not there (any more).

        *length* is checked when the file has to be opened. A file that turns out short is forgotten, so the
        next read opens what the name leads to by then.
        """
        entry = self._take(window_id) or self._open(window_id, length)
        if entry is None:
            return None
        found = b""
        try:
            found = os.pread(entry.fd, size, offset)
        except OSError:
            pass  # an unreadable sector is treated as lost bytes: the caller fetches them again
        finally:
            self._release(entry)
        if len(found) == size:
            return found
        self.forget(window_id)
        return None

    def read_prefix(self, window_id: str, offset: int, size: int) -> bytes | None:
        """As `read`, of a window that is not complete, where the caller knows how much of it is right.

        The descriptor is not kept: behind what is right this file may hold anything, and another file may
        come to have its name before it is complete.
        """
        fd = self._directory.open_read(window_id, None)
        if fd is None:
            return None
        try:
            found = os.pread(fd, size, offset)
        except OSError:
            return None
        finally:
            os.close(fd)
        return found if len(found) == size else None

    def forget(self, window_id: str) -> None:
        """Close the window's descriptor, at once or when its last reader is done."""
        with self._lock:
            entry = self._table.pop(window_id, None)
            closing = entry is not None and self._retire(entry)
        if entry is not None and closing:
            os.close(entry.fd)

    def by_age(self) -> list[str]:
        """The windows that are open, the least recently read first."""
        with self._lock:
            return list(self._table)

    def close(self) -> None:
        """Forget all."""
        for window_id in list(self._table):
            self.forget(window_id)

    def __len__(self) -> int:
        return len(self._table)

    def _take(self, window_id: str) -> _Open | None:
        with self._lock:
            entry = self._table.get(window_id)
            if entry is not None:
                entry.users += 1
                self._table.move_to_end(window_id)
            return entry

    def _open(self, window_id: str, length: int) -> _Open | None:
        fd = self._directory.open_read(window_id, length)
        if fd is None:
            return None
        closing: list[int] = []
        with self._lock:
            entry = self._table.get(window_id)
            if entry is not None:
                closing.append(fd)
                entry.users += 1
            else:
                entry = self._table[window_id] = _Open(fd)
                while len(self._table) > self._limit:
                    _, oldest = self._table.popitem(last=False)
                    if self._retire(oldest):
                        closing.append(oldest.fd)
        for unused in closing:
            os.close(unused)
        return entry

    def _release(self, entry: _Open) -> None:
        with self._lock:
            entry.users -= 1
            closing = entry.doomed and entry.users == 0
        if closing:
            os.close(entry.fd)

    @staticmethod
    def _retire(entry: _Open) -> bool:
        entry.doomed = True
        return entry.users == 0
