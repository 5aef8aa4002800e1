"""Take what readers wait on from a process that is stopped or stuck, and end it: so the next keeper has it,
nobody who waits is let go without data, and whoever is continued later finds himself dead.

For who has to start a keeper while there is no filler to do it. Nothing is asked of that process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from chunk_store.doorway import WINDOWS
from erofs_fs import handover, syscalls
from erofs_fs.journal import Journal
from erofs_fs.pids import ends, lock_owners

_END_SECONDS: Final = 5.0  # in which a process that was killed ends
_NAMES: Final = {"anon_inode:[fanotify]": handover.GROUP, "/memfd:journal (deleted)": handover.JOURNAL}


def owner_of(lock: Path) -> int:
    """The process that holds the file *lock*; 0 if there is none, or none that is seen from here."""
    try:
        status = lock.stat()
    except FileNotFoundError:
        return 0
    return lock_owners(status.st_dev, {status.st_ino}).get(status.st_ino, 0)


def take_from(root: Path, lock: Path, *, silent_since: float | None = None) -> dict[str, int]:
    """Kill the keeper or filler of the store *root* that holds the file *lock*; what it held, by the names in
    `handover.STORED` and the lock by its own, which is the caller's now.

    Empty, and nothing was done, if it does not hold all of that, or this process may not take it; and of a
    keeper that was asked something at *silent_since* (seconds of the monotonic clock), if it has heard it.
    """
    pid = owner_of(lock)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return {}
    try:
        if owner_of(lock) != pid:
            return {}  # another process by now
        found = _held(pid, pidfd, {handover.DOOR: root / WINDOWS, handover.LOCK: lock})
        silent = silent_since is None or (
            handover.JOURNAL in found and Journal(found[handover.JOURNAL]).turned < silent_since
        )
        if silent and found.keys() == {*handover.STORED, handover.LOCK} and _killed(pidfd):
            return found
        for descriptor in found.values():
            os.close(descriptor)
        return {}
    finally:
        os.close(pidfd)


def _held(pid: int, pidfd: int, places: Mapping[str, Path]) -> dict[str, int]:
    found: dict[str, int] = {}
    known = {(status.st_dev, status.st_ino): name for name, path in places.items() if (status := path.stat())}
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                status = link.stat()
                name = _NAMES.get(str(link.readlink())) or known.get((status.st_dev, status.st_ino))
                if name is not None and name not in found:
                    found[name] = syscalls.copy_of_descriptor(pidfd, int(link.name))
    return found


def _killed(pidfd: int) -> bool:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return ends(pidfd, _END_SECONDS)
