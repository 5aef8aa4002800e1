"""Counts what lies in a store, from the directory alone.

Which length a window should have is said by the images, which the store does not know; so "complete" means
recorded at a checkpoint with that length, and what is newer or partial is one number. Overlap between windows
(a chunk in two of them) cannot be seen from here either. Takes no lock and changes nothing.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from chunk_store import sums
from chunk_store.window_file import WindowDirectory


@dataclass(frozen=True, slots=True)
class Census:
    """Windows and bytes of one store."""

    complete: int  # recorded, and of the recorded length
    complete_bytes: int
    unrecorded: int  # completed since the last checkpoint, or still partial
    unrecorded_bytes: int
    empty: int  # absent, the file kept for a mount that holds it
    foreign: int  # entries under windows/ that are no windows
    disk_bytes: int  # what all of it occupies

    @property
    def windows(self) -> int:
        """Windows with bytes in them."""
        return self.complete + self.unrecorded


def take_census(root: Path) -> Census:
    """Count the store below *root*; all zeros where there is none.

    Raises:
        OSError: the directory cannot be read.
    """
    recorded = sums.load(root)
    complete = complete_bytes = unrecorded = unrecorded_bytes = empty = foreign = disk = 0
    for name, path in WindowDirectory(root).names():
        try:
            found = Path(path).lstat()
        except FileNotFoundError:
            continue  # evicted while we looked
        if not sums.is_window_id(name) or not stat.S_ISREG(found.st_mode):
            foreign += 1
            continue
        disk += found.st_blocks * 512
        record = recorded.get(name)
        if record is not None and record.length == found.st_size:
            complete += 1
            complete_bytes += found.st_size
        elif found.st_size == 0:
            empty += 1
        else:
            unrecorded += 1
            unrecorded_bytes += found.st_size
    return Census(complete, complete_bytes, unrecorded, unrecorded_bytes, empty, foreign, disk)
