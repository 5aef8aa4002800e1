"""When kernel mounts end: their holds are closed then, which inotify tells. Used by one thread."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from erofs_fs import syscalls
from erofs_fs.holds import lives

_EVENT = struct.Struct("iIII")  # struct inotify_event without its name, which watched files have not
_READ_BYTES = 1 << 16
# A hold that was closed and is held still may be held by somebody who only looks at it, as we do. Of their
# end inotify does not tell, lest it tell of ours. So we look again, hardly ever with somebody each time.
_AGAIN_SECONDS = 1.0
_LOOKS = 3


class HoldWatch:
    """The holds of mounts that live. `descriptor` is readable when one was closed by somebody."""

    def __init__(self) -> None:
        self.descriptor = syscalls.inotify()
        self._mounts: dict[int, tuple[str, Path]] = {}  # by the number of the watch
        self._watches: dict[str, int] = {}
        self._doubtful: dict[str, tuple[float, int]] = {}  # when to look again, and how often still

    def add(self, mount_id: str, hold: Path) -> None:
        """Look after the mount that holds the file *hold*.

        Raises:
            OSError: it is not there, or the kernel watches no more.
        """
        watch = syscalls.inotify_watch_close(self.descriptor, os.fsencode(hold))
        self._mounts[watch] = mount_id, hold
        self._watches[mount_id] = watch

    def forget(self, mount_id: str) -> None:
        """No longer."""
        self._doubtful.pop(mount_id, None)
        watch = self._watches.pop(mount_id)
        del self._mounts[watch]
        syscalls.inotify_forget(self.descriptor, watch)

    def ended(self) -> list[str]:
        """The mounts that are gone, as far as it is known by now; they are still watched."""
        closed = {self._mounts[watch][0] for watch in self._closed() if watch in self._mounts}
        return [mount_id for mount_id in closed if not self._lives(mount_id, _LOOKS)]

    def due(self) -> float | None:
        """When `overdue` has something to do, in seconds of the monotonic clock."""
        return min((at for at, _ in self._doubtful.values()), default=None)

    def overdue(self, now: float) -> list[str]:
        """As `ended`, of those that have to be looked at again."""
        looks = [(mount_id, left) for mount_id, (at, left) in self._doubtful.items() if at <= now]
        return [mount_id for mount_id, left in looks if not self._lives(mount_id, left - 1)]

    def _closed(self) -> Iterator[int]:
        """The numbers of the watches whose files were closed."""
        with suppress(BlockingIOError):
            raw = os.read(self.descriptor, _READ_BYTES)
            at = 0
            while at < len(raw):
                watch, _, _, size = _EVENT.unpack_from(raw, at)
                at += _EVENT.size + size
                yield watch

    def _lives(self, mount_id: str, looks: int) -> bool:
        """Whether somebody holds it; *looks*: how often that is asked again if so."""
        self._doubtful.pop(mount_id, None)
        _, hold = self._mounts[self._watches[mount_id]]
        if not lives(hold, quietly=True):
            return False
        if looks:
            self._doubtful[mount_id] = time.monotonic() + _AGAIN_SECONDS, looks
        return True
