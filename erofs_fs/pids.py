"""What the kernel knows of processes by their numbers: when one was started, whether it is stopped or has
ended, what memory it has, which locks it holds.

Standard library only: the keeper asks, too.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Final

LOCKS: Final = Path("/proc/locks")


def stat_fields(pid: int) -> list[bytes]:
    """The words of /proc/PID/stat from the third on, the state, as proc_pid_stat(5) has them.

    Raises:
        OSError: there is no such process, or none that may be looked at.
    """
    # The name before them may hold spaces and brackets.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def birth_of(pid: int) -> int | None:
    """When process *pid* was started, in clock ticks since boot; None if there is no such process."""
    try:
        return int(stat_fields(pid)[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal, and not continued."""
    with suppress(OSError):
        return stat_fields(pid)[0] == b"T"
    return False


def await_end(pid: int, seconds: float) -> bool:
    """Whether process *pid* ends (or has ended) within *seconds*; a zombie has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return ends(descriptor, seconds)
    finally:
        os.close(descriptor)


def ends(pidfd: int, seconds: float) -> bool:
    """As `await_end`, of the process that *pidfd* is of."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def resident_bytes(pid: int | None = None) -> int:
    """Memory of process *pid*, default: this one, that is in RAM; 0 if there is no such process."""
    try:
        pages = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")


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
