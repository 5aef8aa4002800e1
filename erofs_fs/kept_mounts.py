"""The kernel mounts of a keeper, from when they are made or taken up until the kernel has let go of them.

A mount is made detached and waits until somebody takes and attaches it; from then on it lives as long as the
kernel holds its file (`holds`). Its windows are watched all that time. Knows neither clients nor the filler.
Used by one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chunk_store.doorway import WINDOWS
from erofs_fs import readahead
from erofs_fs.errors import ErofsError, MountFailed
from erofs_fs.hold_watch import HoldWatch
from erofs_fs.holds import hold_path, living
from erofs_fs.localised_file import devices_of
from erofs_fs.mount import detached
from erofs_fs.watched import Watched, WatchedWindows
from rafs.errors import FormatInvalid
from rafs.window_slots import WindowDevice

UNTAKEN_SECONDS: Final = 30.0  # a mount that was made and that nobody has attached is dropped then
_ATTEMPTS: Final = 5  # to mount windows that the store removes and makes anew meanwhile


class Mount:
    """One kernel mount and the windows it needs."""

    __slots__ = ("descriptor", "facts", "id", "request", "untaken_until", "windows")

    def __init__(self, mount_id: str, request: Mapping[str, Any], windows: list[Watched]) -> None:
        self.id = mount_id
        self.request = request  # what a filler needs to know to fill it; may hold secrets
        self.windows = windows
        self.facts: Any = None  # what the last filler has told of it
        self.descriptor = -1  # of the mount, until somebody takes it
        self.untaken_until = 0.0


class KeptMounts:
    """All of the store below *root*; *windows* are what they need, *say* is called with lines for people."""

    def __init__(self, root: Path, windows: WatchedWindows, say: Callable[[str], None]) -> None:
        self._root = root
        self._windows = windows
        self._say = say
        self._mounts: dict[str, Mount] = {}
        self._untaken: dict[str, Mount] = {}  # of these, those that nobody has attached yet
        self._holds = HoldWatch()

    def __len__(self) -> int:
        return len(self._mounts)

    def __iter__(self) -> Iterator[Mount]:
        return iter(self._mounts.values())

    def of(self, mount_id: str) -> Mount | None:
        """The mount of that name."""
        return self._mounts.get(mount_id)

    @property
    def descriptor(self) -> int:
        """Readable when a mount may have ended."""
        return self._holds.descriptor

    @property
    def requests(self) -> dict[str, Any]:
        """What a filler needs to know, by mount; may hold secrets."""
        return {mount.id: mount.request for mount in self}

    def take_up(self, requests: Mapping[str, Any]) -> None:
        """Watch for the mounts that live already; *requests* may know more of them than their holds."""
        for hold in living(self._root):
            if hold.request is None:
                continue
            try:
                windows = self._windows.take(devices_of(hold.image))
            except (OSError, FormatInvalid) as error:
                self._say(f"mount {hold.id} lives and cannot be taken up: {error}")
                continue
            self._windows.settle(windows)
            self._add(Mount(hold.id, requests.get(hold.id, hold.request), windows))

    def make(self, mount_id: str, image: Path, request: Mapping[str, Any]) -> None:
        """Make a mount that somebody will take; its hold and the files of its windows are there. One that
        waits to be taken is asked for again by who has not heard of it.

        Raises:
            OSError, ErofsError, FormatInvalid: it cannot be made; nothing is left of it.
        """
        if mount_id in self._untaken:
            return
        devices = devices_of(image)
        for _ in range(_ATTEMPTS):
            before = readahead.numbers()
            try:
                windows, descriptor = self._watched_mount(mount_id, image, devices)
            except (OSError, ErofsError) as error:
                if not any(isinstance(one, FileNotFoundError) for one in (error, error.__cause__)):
                    raise
                self._windows.make_missing(devices)
                continue
            if self._windows.settle_new(windows):
                break
            os.close(descriptor)
            self._windows.release(windows)
        else:
            raise MountFailed(f"mounting {image}: its windows are replaced each time; try again")
        readahead.tune_readahead(before)
        mount = Mount(mount_id, request, windows)
        mount.descriptor = descriptor
        mount.untaken_until = time.monotonic() + UNTAKEN_SECONDS
        self._untaken[mount_id] = mount
        # Of a keeper before us, whose mount ended with it: who asks again holds the hold, so it was taken up.
        known = self._mounts.get(mount_id)
        self._add(mount)
        if known is not None:
            self._windows.release(known.windows)

    def untaken(self, mount_id: str) -> Mount | None:
        """The mount of that name, if it waits to be taken."""
        return self._untaken.get(mount_id)

    def taken(self, mount: Mount) -> None:
        """Somebody has the descriptor of *mount*, which lives as long as they or the kernel do."""
        del self._untaken[mount.id]
        os.close(mount.descriptor)
        mount.descriptor = -1

    def ended(self) -> list[Mount]:
        """Those that are gone, as far as it is known by now; each is to be dropped."""
        return [self._mounts[mount_id] for mount_id in self._holds.ended()]

    def drop(self, mount: Mount) -> list[Watched]:
        """*mount* is gone; the windows that no other one needs, which are not watched any more."""
        if mount.id in self._untaken:
            self.taken(mount)
        del self._mounts[mount.id]
        self._holds.forget(mount.id)
        return self._windows.release(mount.windows)

    def due(self) -> float | None:
        """When `overdue` has something to do, in seconds of the monotonic clock."""
        dues = [mount.untaken_until for mount in self._untaken.values()]
        held = self._holds.due()
        return min(dues if held is None else [*dues, held], default=None)

    def overdue(self, now: float) -> list[Mount]:
        """Let go of those that nobody has taken; return what else is gone, as `ended` does."""
        for mount in list(self._untaken.values()):
            if now >= mount.untaken_until:
                self._say(f"mount {mount.id} was made and never attached")
                self.taken(mount)
        return [self._mounts[mount_id] for mount_id in self._holds.overdue(now)]

    def _watched_mount(
        self, mount_id: str, image: Path, devices: Sequence[WindowDevice]
    ) -> tuple[list[Watched], int]:
        windows = self._windows.take(devices)
        names = [device.id for device in devices]
        try:
            return windows, detached(image, self._root / WINDOWS, names, hold_path(self._root, mount_id))
        except (OSError, ErofsError):
            self._windows.release(windows)
            raise

    def _add(self, mount: Mount) -> None:
        self._mounts[mount.id] = mount
        self._holds.add(mount.id, hold_path(self._root, mount.id))
