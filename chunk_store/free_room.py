"""What a file system still takes, for the sentence that says it takes no more."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def free_room(place: Path) -> str:
    """How many bytes are free where *place* is, or is to be; that no inode is, if that is what is lacking.
    For people, in brackets and with a space in front; empty if that cannot be asked.
    """
    from chunk_store.byte_size import human_size

    for directory in (place, *place.parents):
        with suppress(OSError):
            found = os.statvfs(directory)
            if found.f_files and not found.f_favail:
                return " (no inode free)"
            return f" ({human_size(found.f_bavail * found.f_frsize)} free)"
    return ""
