"""The windows a keeper watches for its mounts: which file is which, how much of it is there, who waits.

All windows of a mount are watched before the kernel opens them, because a file that was opened unwatched
never asks later; those that are complete are let go right after. Decides nothing about fetching and answers
nobody. Used by one thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

from chunk_store.doorway import FILE_MODE, window_place
from erofs_fs import fanotify
from rafs.window_slots import WindowDevice


class Watched:
    """One window, as far as some mount of this keeper needs it."""

    __slots__ = ("id", "inode", "length", "mounts", "there", "waiting", "watched")

    def __init__(self, window_id: str, inode: int, length: int) -> None:
        self.id = window_id
        self.inode = inode
        self.length = length  # bytes when it is complete
        self.there = 0  # bytes from the beginning that a filler has told to be verified
        self.watched = False
        self.mounts = 0
        self.waiting: dict[int, range] = {}  # accesses by number: the bytes they are of

    @property
    def place(self) -> str:
        """Where its file lies below the directory of windows."""
        return window_place(self.id)


class WatchedWindows:
    """All of them. *group* and *door*, the silent directory of windows, stay the caller's."""

    def __init__(self, group: int, door: int) -> None:
        self._group = group
        self._door = door
        self._by_inode: dict[int, Watched] = {}
        self._by_id: dict[str, Watched] = {}
        self.watched = 0  # how many of them are

    def __len__(self) -> int:
        return len(self._by_inode)

    def __iter__(self) -> Iterator[Watched]:
        return iter(self._by_inode.values())

    @property
    def device(self) -> int:
        """Of their files, as `st_dev` has it."""
        return os.fstat(self._door).st_dev

    def of_inode(self, inode: int) -> Watched | None:
        """The window whose file has that number."""
        return self._by_inode.get(inode)

    def of_id(self, window_id: str) -> Watched | None:
        """The window of that name."""
        return self._by_id.get(window_id)

    def take(self, devices: Iterable[WindowDevice]) -> list[Watched]:
        """Watch the windows of another mount, complete ones, too; the kernel may open them now.

        Raises:
            OSError: one has no file, or is no file. None of them is taken then.
        """
        taken: list[Watched] = []
        try:
            for device in devices:
                taken.append(self._take(device))  # noqa: PERF401 - what came before an error is needed
        except BaseException:
            self.release(taken)
            raise
        return taken

    def settle(self, windows: Iterable[Watched]) -> None:
        """Let those go that are complete: nobody will ask for them."""
        for window in windows:
            if self.size(window) == window.length:
                self.complete(window)
            elif window.there == window.length:
                window.there = 0  # cut by somebody since it was complete

    def settle_new(self, windows: Iterable[Watched]) -> bool:
        """`settle` for what was just taken, now that the kernel has opened it, which nobody removes from now
        on; False if one was replaced meanwhile: the kernel may have opened another file than is watched.
        """
        for window in windows:
            if window.there == window.length:
                if self.size(window) == window.length:
                    self.complete(window)
                    continue
                window.there = 0
            # Not by its inode number, which a file made just after another was removed often has again.
            if not fanotify.is_watched(self._group, self._door, window.place):
                return False
        return True

    def complete(self, window: Watched) -> None:
        """All of the window is there."""
        window.there = window.length
        self._unwatch(window)

    def watch_again(self) -> int:
        """Watch what is not complete (any more); for how many that is new.

        Windows that nobody can find any more stay as they are.
        """
        found = 0
        for window in self:
            if window.watched:
                continue
            with suppress(OSError):
                status = self._status(window.place)
                if status.st_ino == window.inode and status.st_size != window.length:
                    self._watch(window)
                    window.there = 0
                    found += 1
        return found

    def release(self, windows: Iterable[Watched]) -> list[Watched]:
        """A mount is gone; the windows that no other mount needs are let go and returned."""
        left: list[Watched] = []
        for window in windows:
            window.mounts -= 1
            if window.mounts:
                continue
            left.append(window)
            del self._by_inode[window.inode]
            if self._by_id.get(window.id) is window:
                del self._by_id[window.id]
            self._unwatch(window)
        return left

    def size(self, window: Watched) -> int:
        """The length of the window's file now; 0 where another file has its name."""
        try:
            found = self._status(window.place)
        except OSError:
            return 0
        return found.st_size if found.st_ino == window.inode else 0

    def make_missing(self, devices: Iterable[WindowDevice]) -> None:
        """Make the files of windows that are gone again, empty: until we watch them or the kernel has them
        open, the store frees such files (`cache gc`).

        Not by the store's own way, which is to ask the keeper for the door.

        Raises:
            OSError: one cannot be made.
        """
        for device in devices:
            with suppress(FileExistsError):
                os.mknod(window_place(device.id), stat.S_IFREG | FILE_MODE, dir_fd=self._door)

    def _take(self, device: WindowDevice) -> Watched:
        place = window_place(device.id)
        # Before its number is asked for, so that a mark found under this name later is the mark of that file.
        fanotify.watch(self._group, self._door, place)
        found = self._status(place)
        if not stat.S_ISREG(found.st_mode):
            fanotify.unwatch(self._group, self._door, place)
            raise OSError(f"{place} is not a file")
        window = self._by_inode.get(found.st_ino)
        if window is None:
            window = Watched(device.id, found.st_ino, device.length)
        self._note_watched(window)
        if found.st_size == window.length:
            window.there = window.length
        elif window.there == window.length:
            window.there = 0  # cut by somebody since it was complete
        self._by_inode[window.inode] = self._by_id[window.id] = window
        window.mounts += 1
        return window

    def _status(self, place: str) -> os.stat_result:
        return os.stat(place, dir_fd=self._door, follow_symlinks=False)

    def _watch(self, window: Watched) -> None:
        fanotify.watch(self._group, self._door, window.place)
        self._note_watched(window)

    def _note_watched(self, window: Watched) -> None:
        if not window.watched:
            window.watched = True
            self.watched += 1

    def _unwatch(self, window: Watched) -> None:
        if not window.watched:
            return
        # Its file may have been taken away by somebody, and its mark with it.
        with suppress(OSError):
            fanotify.unwatch(self._group, self._door, window.place)
        window.watched = False
        self.watched -= 1
