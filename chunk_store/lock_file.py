"""A file that one process at a time holds: whoever has it knows that it is the only one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from chunk_store.doorway import FILE_MODE


def lock_file(path: Path) -> int | None:
    """A descriptor, the caller's, that holds the file *path*, made where it is missing; None where another
    process holds it. It is free again when the descriptor and all its copies are closed.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
