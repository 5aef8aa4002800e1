"""Who holds which flock: asked of /proc/locks, because a lock does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LOCKS: Final = Path("/proc/locks")


def lock_owners(inodes: set[int]) -> dict[int, int]:
    """Inode → process that holds an exclusive flock on the file with that number.

    File numbers of other file systems are not told apart: take the answer as "perhaps".
    """
    found: dict[int, int] = {}
    # 12: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF; who waits for a lock has "->" behind the number.
    for line in LOCKS.read_text(encoding="ascii", errors="replace").splitlines():
        words = line.split()
        if words[1:4] == ["FLOCK", "ADVISORY", "WRITE"]:
            inode = int(words[5].rpartition(":")[2])
            if inode in inodes:
                found[inode] = int(words[4])
    return found
