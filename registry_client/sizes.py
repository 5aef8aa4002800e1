"""Sizes for people, and what a file system still takes, for the sentence that says it takes no more.
`chunk_store` has its own of that: neither may import the other.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def room_left(directory: Path) -> str:
    """What *directory* still takes, for people: in brackets, with a space in front. Empty if that cannot be
    asked.
    """
    with suppress(OSError):
        found = os.statvfs(directory)
        if found.f_files and not found.f_favail:
            return " (no inode free)"
        return f" ({megabytes(found.f_bavail * found.f_frsize)} free)"
    return ""


def megabytes(size: int) -> str:
    """*size* bytes for people, in one unit: what is needed and what is free are compared."""
    return f"{size / 1e6:.1f} MB"
