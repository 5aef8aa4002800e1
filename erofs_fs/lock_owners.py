"""Who holds which flock: asked of /proc/locks, because a lock does not say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LOCKS: Final = Path("/proc/locks")


def lock_owners(device: int, inodes: set[int]) -> dict[int, int]:
    """Inode → process that holds an exclusive flock on the file with that number on *device* (`st_dev`).

    Processes that are not seen from here have no number, and are left out.
    """
    found: dict[int, int] = {}
    # 12: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF; who waits for a lock has "->" behind the number.
    for line in LOCKS.read_text(encoding="ascii", errors="replace").splitlines():
        words = line.split()
        if words[1:4] == ["FLOCK", "ADVISORY", "WRITE"]:
            major, minor, inode = words[5].split(":")
            on = os.makedev(int(major, 16), int(minor, 16))
            if int(inode) in inodes and int(words[4]) > 0 and _is_same(on, device):
                found[int(inode)] = int(words[4])
    return found


def _is_same(device: int, status_device: int) -> bool:
    # The kernel shows a file system; on btrfs `st_dev` is a subvolume's. Neither is a disk's number then.
    return device == status_device or os.major(device) == os.major(status_device) == 0
