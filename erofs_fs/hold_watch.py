"""When kernel mounts end: their holds are closed then, which inotify tells. Used by one thread."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

from erofs_fs import syscalls
from erofs_fs.holds import lives

_EVENT = struct.Struct("iIII")  # struct inotify_event without its name, which watched files have not
_READ_BYTES = 1 << 16


class HoldWatch:
    """The holds of mounts that live. `descriptor` is readable when one was closed by somebody."""

    def __init__(self) -> None:
        self.descriptor = syscalls.inotify()
        self._mounts: dict[int, tuple[str, Path]] = {}  # by the number of the watch
        self._watches: dict[str, int] = {}

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
        watch = self._watches.pop(mount_id)
        del self._mounts[watch]
        syscalls.inotify_forget(self.descriptor, watch)

    def ended(self) -> list[str]:
        """The mounts that are gone, as far as it is known by now; they are still watched."""
        gone: list[str] = []
        with suppress(BlockingIOError):
            raw = os.read(self.descriptor, _READ_BYTES)
            at = 0
            while at < len(raw):
                watch, _, _, size = _EVENT.unpack_from(raw, at)
                at += _EVENT.size + size
                mount_id, hold = self._mounts.get(watch, ("", None))
                # Others close it, too: whoever made it, or looked whether it is held.
                if hold is not None and mount_id not in gone and not lives(hold):
                    gone.append(mount_id)
        return gone
