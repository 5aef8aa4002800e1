"""Which windows the disk has, once it has failed to take something: each is asked on its own.

`syncfs` tells that something was lost, not what. What is lost is emptied where it is, because an error is
better than zeros. All this may take long, so it is for a process that nobody waits for. Serves `checkpoint`,
which decides when to ask and records what is there.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Container, Sequence
from enum import IntEnum
from pathlib import Path

from xxhash import xxh3_64

from chunk_store import sums
from chunk_store.seldom import Seldom
from chunk_store.sums import Sum
from chunk_store.window_file import LockedWindow, WindowDirectory

_LOCK_SECONDS = 5.0  # for all windows together: who verifies or evicts one holds it for milliseconds
_LOOK_SECONDS = 0.02
_MOST_LINES = 20  # of a kind in one pass: a disk that fails may fail for thousands of windows, and each time

log = logging.getLogger(__name__)


class Fate(IntEnum):
    """What became of a window that was completed. A byte, so that a child can tell its parent."""

    ON_DISK = 0
    EMPTIED = 1  # it was lost
    GONE = 2  # it is not complete any more; whoever completes it again notes it
    UNDECIDED = 3  # it could not be locked: it is to be asked again
    LOST = 4  # and could not be emptied: that is to be tried again


def fates(root: Path, completed: Sequence[Sum], lost: Container[str]) -> list[Fate]:
    """Ask for each of *completed*, and empty what is lost; *lost*: ids of which that is known already.

    Waits a few seconds for windows that somebody holds for a moment. What keeps a window from being emptied
    is logged.
    """
    directory = WindowDirectory(root)
    until, lines = time.monotonic() + _LOCK_SECONDS, Seldom(_MOST_LINES)
    return [_fate(directory, one, until, lines, known=one.window_id in lost) for one in completed]


def empty_lost_of_others(root: Path, ours: Container[str]) -> int:
    """Empty what is lost among windows that no record vouches for, but for *ours*; return how many those are.

    Whoever completed or began them may have been killed before he could ask. What is being filled is left
    alone: its filler hears of the failure, too.

    Raises:
        OSError: the store cannot be read.
    """
    directory = WindowDirectory(root)
    recorded = sums.load(root)
    lines = Seldom(_MOST_LINES)
    emptied = 0
    for name, path in directory.names():
        if not sums.is_window_id(name) or name in ours:
            continue
        try:
            found = os.lstat(path)
            record = recorded.get(name)
            if not stat.S_ISREG(found.st_mode) or not found.st_size:
                continue
            if record is not None and (record.length, record.mtime_ns) == (found.st_size, found.st_mtime_ns):
                continue
            locked = directory.try_lock(name, found.st_size)
        except OSError:
            continue
        if locked is None:
            continue
        try:
            # Nobody has told what is right: what the page cache says is compared with what the disk does.
            if locked.size and not _is_on_disk(locked, _checksum(locked)):
                emptied += _emptied(locked, name, lines)
        finally:
            locked.close()
    return emptied


def _fate(
    directory: WindowDirectory, completed: Sum, until: float, lines: Seldom, *, known: bool
) -> Fate:
    locked = _lock(directory, completed, until, lines)
    if locked is None:
        return Fate.UNDECIDED
    try:
        if not locked.complete:
            return Fate.GONE
        if not known and _is_on_disk(locked, completed.checksum):
            return Fate.ON_DISK
        return Fate.EMPTIED if _emptied(locked, completed.window_id, lines) else Fate.LOST
    finally:
        locked.close()


def _lock(
    directory: WindowDirectory, completed: Sum, until: float, lines: Seldom
) -> LockedWindow | None:
    while True:
        try:
            locked = directory.try_lock(completed.window_id, completed.length)
        except OSError as error:
            if lines.passes("look", time.monotonic()) is not None:
                log.warning("window %s cannot be looked at: %s; trying later", completed.window_id, error)
            return None
        if locked is not None or time.monotonic() > until:
            return locked
        time.sleep(_LOOK_SECONDS)


def _is_on_disk(locked: LockedWindow, checksum: int | None) -> bool:
    """Whether the file, read from the disk, has this XXH3-64.

    `fsync` alone does not tell: somebody else may have been told before, the kernel may have let go of the
    inode that bore the error, and ext4 without a journal was seen to call files synced of which it had not
    written but the first page.
    """
    try:
        locked.sync()
    except OSError:
        return False
    return _checksum(locked) == checksum


def _checksum(locked: LockedWindow) -> int | None:
    """None if it cannot be read."""
    try:
        return xxh3_64(locked.read(0, locked.size)).intdigest()
    except OSError:
        return None


def _emptied(locked: LockedWindow, window_id: str, lines: Seldom) -> bool:
    try:
        locked.empty()
    except OSError as error:
        if lines.passes("empty", time.monotonic()) is not None:
            log.error(
                "window %s did not reach the disk and cannot be emptied: %s; what is read of it may be wrong",
                window_id,
                error,
            )
        return False
    return True
