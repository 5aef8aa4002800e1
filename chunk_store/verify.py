"""Reads every window again and drops those that are not what was written; slowly, if told to, for a scrub.

A wrong window that nothing holds is unlinked. One that a mount or a reader holds is emptied where it is, so
that whoever reads on waits for the right bytes. A window's id decides its bytes, so the checksum in the
record stays right however often the window was dropped and fetched again. What is not recorded cannot be
checked from here: a window that was completed since the last checkpoint, or one that is partial, whose chunks
are compared with their digests by whoever goes on with it. Serves `nopull cache verify`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from chunk_store import sums
from chunk_store.boot import checksum
from chunk_store.window_file import Removal, WindowDirectory


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found, in windows unless the name says otherwise."""

    right: int
    right_bytes: int
    dropped: tuple[str, ...]  # ids of windows that were wrong or unreadable and are gone
    emptied: tuple[str, ...]  # ids of wrong windows that a mount or a reader holds, and that are absent now
    held: tuple[str, ...]  # ids of windows that are wrong and were left alone: somebody was writing them
    unrecorded: int  # of some length, but of no recorded checksum: not checked
    partial: int  # recorded once and of another length now: not checked here, but before they are relied on
    foreign: int  # entries that are no windows


def verify(root: Path, *, rate: int | None = None) -> Verification:
    """Check every recorded window of the store below *root*; drop what is wrong.

    The caller has opened the store (`boot.open_store`). *rate*: bytes read per second at most.

    Raises:
        OSError: the directory cannot be read, or a wrong window cannot be removed.
    """
    directory = WindowDirectory(root)
    recorded = sums.load(root)
    right = right_bytes = unrecorded = partial = foreign = 0
    dropped: list[str] = []
    emptied: list[str] = []
    held: list[str] = []
    free_at = time.monotonic()
    for name, _ in directory.names():
        if not sums.is_window_id(name) or directory.size(name) < 0:
            foreign += 1
            continue
        size = directory.size(name)
        if not size:
            continue
        record = recorded.get(name)
        if record is None:
            unrecorded += 1
            continue
        if record.length != size:
            partial += 1
            continue
        if rate is not None:
            time.sleep(max(0.0, free_at - time.monotonic()))
            free_at = max(free_at, time.monotonic()) + size / rate
        if _checksum_on_disk(directory, name) == record.checksum:
            right += 1
            right_bytes += size
        elif directory.size(name) == record.length:  # else it went, or was begun again, while we read it
            removal = directory.remove(name)
            if removal is Removal.REMOVED:
                dropped.append(name)
            elif removal is Removal.HELD:
                (emptied if _empty(directory, name, size) else held).append(name)
    return Verification(
        right, right_bytes, tuple(dropped), tuple(emptied), tuple(held), unrecorded, partial, foreign
    )


def _empty(directory: WindowDirectory, window_id: str, length: int) -> bool:
    """Make a window of *length* bytes absent; False: somebody is writing it."""
    locked = directory.try_lock(window_id, length)
    if locked is None:
        return False
    try:
        if locked.complete:
            locked.empty()
    finally:
        locked.close()
    return True


def _checksum_on_disk(directory: WindowDirectory, window_id: str) -> int | None:
    """XXH3-64 of the file; None if it cannot be read."""
    try:
        fd = directory.open_read(window_id, None)
        if fd is None:
            return None
        try:
            # The page cache would answer for the disk.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return checksum(fd)
        finally:
            os.close(fd)
    except OSError:
        return None
