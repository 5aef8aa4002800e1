"""Live where the machine lives: a process that stays must not keep its starter's mount namespace alive.

A kernel mount that is attached in a namespace of its own goes with the last process in it; a keeper or filler
that was started there would be that process for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from erofs_fs import syscalls
from erofs_fs.mount import is_localised
from erofs_fs.mount_table import mount_table
from erofs_fs.pids import stat_fields

FIRST: Final = 1
OWN: Final = Path("/proc/self/ns/mnt")
# Of the other driver's mounts, whose servers end with the last copy of each; as in `fuse_fs.mount_options`.
FUSE_TYPE: Final = "fuse.nopull"


def leave_starters_namespace(place: Path) -> None:
    """Enter the mount namespace of the machine's first process, or of the farthest ancestor that may be
    looked at, if the directory *place* is the same there; else a new one, in which no image is mounted.

    Stay where that is the present one: a new one would keep busy whatever others unmount in it, unless its
    mounts are shared. Before the process has threads.
    """
    outer = _outermost()
    with suppress(OSError):  # it may have ended by now
        if outer is None or outer.readlink() == OWN.readlink() or _join(outer, place):
            return
    with suppress(OSError):
        _enter_new()


def _outermost() -> Path | None:
    """A name of the namespace that is taken for the machine's; None if none but the present one is known."""
    found = None
    for pid in (*_ancestors(), FIRST):
        namespace = Path(f"/proc/{pid}/ns/mnt")
        with suppress(OSError):  # not ours to look at, or gone
            namespace.readlink()
            found = namespace
    return found


def _ancestors() -> Iterator[int]:
    """Process ids, the nearest first, without the machine's first."""
    pid = os.getppid()
    with suppress(OSError):
        while pid > FIRST:
            yield pid
            pid = int(stat_fields(pid)[1])


def _join(namespace: Path, place: Path) -> bool:
    here = place.stat()
    target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    back = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.enter_mount_namespace(target)
        with suppress(OSError):
            there = place.stat()
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                return True
        syscalls.enter_mount_namespace(back)
    finally:
        os.close(target)
        os.close(back)
    return False


def _enter_new() -> None:
    syscalls.enter_new_mount_namespace()
    for entry in reversed(mount_table()):
        if entry.fstype == FUSE_TYPE or is_localised(entry):
            with suppress(OSError):
                syscalls.unmount(entry.mountpoint, lazy=True)
