"""Through which directory window files are opened, so that none of our processes waits for itself.

While a keeper (`erofs_fs.keeper`) watches windows, reading or writing one that was opened by its path makes
the kernel ask the keeper first, and the answer may have to come from the very process that asked. So the
keeper has a private clone of the mount that holds the windows, through which nothing is asked, and gives a
descriptor of it to every process of ours. All of this package opens window files through here.

`ROOT/windows.keeper` holds the number of the latest keeper, 8 bytes little-endian, 0 before the first. A
keeper writes it before it marks its first window, and we look at it before and after each `open`: if it is
the same, the file was opened through that keeper's door, or before any window was marked, which is as silent.
A keeper listens before it raises the number, so whom nobody answers under a new one is asking a keeper that
is gone, and its marks with it; one that listens and is silent is asked again.
Standard library only: the keeper imports the names below.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import NamedTuple

from chunk_store.keeper_client import ASK_SECONDS, ask_keeper, ask_within

WINDOWS = "windows"
NUMBER = "windows.keeper"
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

_NUMBER = struct.Struct("<Q")
# A keeper that was silent once is asked again after this, or after as long as it was silent. Its answer is
# waited for no longer than an access costs that has to wait for it (`erofs_fs.gate`).
_PAUSE_SECONDS = 0.05
_AGAIN_SECONDS = 0.25


class Passage(NamedTuple):
    """How a window's file was opened."""

    number: int  # of the keeper then
    silent: bool  # it asks no keeper of that number


class _Door:
    """A keeper's directory of windows: closed with its last reference, and whoever opens through it has one.

    Counting users instead would cost each `open` two locks, which a fork may find taken.
    """

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)


class Doorway:
    """Opens files below `ROOT/windows`. Thread-safe; usable in a forked child, too."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = os.fspath(root / WINDOWS)
        # Protects the three below while they change; readers take the pair in `_door` at once.
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._door: tuple[int, _Door | None] = (0, None)  # number of its keeper; None: by path
        self._ask_at = inf  # monotonic seconds: when a keeper that was silent is asked again for its door

    @property
    def number(self) -> int:
        """The number of the latest keeper of this store; 0 if there was none."""
        mapped = self._map or self._map_number()
        return int(_NUMBER.unpack_from(mapped)[0]) if mapped is not None else 0

    def open(self, name: str, flags: int, mode: int = FILE_MODE) -> tuple[int, Passage]:
        """(descriptor of `ROOT/windows/NAME`, how it was opened).

        Raises:
            OSError: as `os.open`.
        """
        while True:
            number, door = self._door
            if number != self.number or (door is None and time.monotonic() >= self._ask_at):
                self._find_door()
                continue
            if door is None:
                descriptor = os.open(f"{self._path}/{name}", flags, mode)
            else:
                descriptor = os.open(name, flags, mode, dir_fd=door.descriptor)
            if number == self.number:
                return descriptor, Passage(number, not number or door is not None)
            os.close(descriptor)

    def is_current(self, passage: Passage) -> bool:
        """Whether what was opened that way would be opened in the same way now. Else it may have us wait for
        the keeper, which what is opened now does not.
        """
        if passage.number != self.number:
            return False
        if not passage.silent and time.monotonic() >= self._ask_at:
            self._find_door()
        return passage.silent or self._door[1] is None

    def watch_again(self) -> None:
        """Tell the keeper, if there is one, that a window is not complete any more."""
        if self.number:
            with suppress(OSError):
                ask_keeper(self._root, {"ask": "watch"})

    def close(self) -> None:
        """Let the keeper's directory and the number go, which keep their file system busy.

        Opening finds them again.
        """
        with self._lock:
            self._door, self._ask_at = (0, None), inf
            self._map = None  # not closed: a thread may be looking at it

    def _map_number(self) -> mmap.mmap | None:
        try:
            descriptor = os.open(self._root / NUMBER, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # a store that was never opened to be written: no keeper can have been here
        try:
            if os.fstat(descriptor).st_size < _NUMBER.size:
                return None
            mapped = mmap.mmap(descriptor, _NUMBER.size, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)
        with self._lock:
            self._map = self._map or mapped
            return self._map

    def _find_door(self) -> None:
        number, began = self.number, time.monotonic()
        seconds = _AGAIN_SECONDS if number == self._door[0] else ASK_SECONDS
        self._ask_at = began + seconds  # other threads go by the path meanwhile
        ask_at = inf
        try:
            door = _ask_for_door(self._root, seconds)
        except TimeoutError:
            door = None
            ask_at = time.monotonic() + max(_PAUSE_SECONDS, time.monotonic() - began)
        with self._lock:
            self._door, self._ask_at = (number, door), ask_at


def window_place(window_id: str) -> str:
    """Where the window's file lies below `ROOT/windows`."""
    return f"{window_id[:2]}/{window_id}"


def prepare_number(root: Path) -> None:
    """Make the file that holds the keeper's number; whoever opens a store to write it does that first.

    Raises:
        OSError: it cannot be made.
    """
    descriptor = os.open(root / NUMBER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        if os.fstat(descriptor).st_size < _NUMBER.size:
            # Not a hole: a look at one in memory that is full (tmpfs) ends the process with SIGBUS.
            os.posix_fallocate(descriptor, 0, _NUMBER.size)
    finally:
        os.close(descriptor)


def next_number(root: Path) -> int:
    """Raise the number by one: what was opened under the old one counts as noisy from now on. For the keeper.

    Raises:
        OSError: the file cannot be read or written.
    """
    prepare_number(root)
    descriptor = os.open(root / NUMBER, os.O_RDWR | os.O_CLOEXEC)
    try:
        number = int(_NUMBER.unpack(os.pread(descriptor, _NUMBER.size, 0))[0]) + 1
        os.pwrite(descriptor, _NUMBER.pack(number), 0)
    finally:
        os.close(descriptor)
    return number


def _ask_for_door(root: Path, seconds: float) -> _Door | None:
    answered = ask_within(root, {"ask": "door"}, seconds)
    if answered is None:
        return None  # it is gone, and with it its marks
    descriptors = answered[1]
    for unexpected in descriptors[1:]:
        with suppress(OSError):
            os.close(unexpected)
    return _Door(descriptors[0]) if descriptors else None
