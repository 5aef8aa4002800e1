"""Which windows belong together, when they were last attached, and whether they are now.

`ROOT/attached/<blake3 of its content>`: the window ids of one set of blobs, one a line. Its mtime is the last
time it was attached; a shared flock on it says that it is attached now, by a process. Kernel mounts have no
process: what they need is held by the kernel itself, file by file. A record that is missing makes windows go
earlier from a full cache, nothing else.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from chunk_store.doorway import DIRECTORY_MODE, FILE_MODE

NAME = "attached"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LastUse:
    """The last time a window's image was attached, in seconds since the epoch, and whether it still is."""

    live: bool
    seconds: float


def record_use(root: Path, window_ids: Iterable[str]) -> int | None:
    """Say that these windows are attached now; return a descriptor that says so until it is closed, or None
    where nothing can be written.
    """
    content = "\n".join(window_ids).encode("ascii")
    path = root / NAME / blake3(content).hexdigest()
    try:
        path.parent.mkdir(DIRECTORY_MODE, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        log.debug("not recorded what is attached: %s", error)
        return None
    try:
        # Waits at most for somebody who looks whether it is attached.
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.fstat(fd).st_size != len(content):
            path.write_bytes(content)
        os.utime(fd)
    except OSError as error:
        log.debug("not recorded what is attached: %s", error)
    return fd


def last_uses(root: Path) -> dict[str, LastUse]:
    """The last use of every window that a record names."""
    uses: dict[str, LastUse] = {}
    for path in _records(root):
        try:
            with path.open("rb") as file:
                use = LastUse(not _lock_alone(file.fileno()), os.fstat(file.fileno()).st_mtime)
                window_ids = file.read().decode("ascii", "replace").split("\n")
        except OSError:
            continue
        for window_id in window_ids:
            known = uses.get(window_id)
            if known is None or (known.live, known.seconds) < (use.live, use.seconds):
                uses[window_id] = use
    return uses


def forget_unused(root: Path, before: float) -> int:
    """Forget what was last attached before *before*, seconds since the epoch, and is not attached now; return
    how many sets of windows that was.

    Raises:
        OSError: a record cannot be removed.
    """
    forgotten = 0
    for path in _records(root):
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mtime < before and _lock_alone(file.fileno()):
                    path.unlink()
                    forgotten += 1
        except FileNotFoundError:
            continue
    return forgotten


def _records(root: Path) -> list[Path]:
    try:
        return list((root / NAME).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _lock_alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
