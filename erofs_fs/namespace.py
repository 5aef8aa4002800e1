"""Live where the machine lives: a process that stays must not keep its starter's mount namespace alive.

A kernel mount that is attached in a namespace of its own goes with the last process in it; a keeper or filler
that was started there would be that process for ever.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from erofs_fs.mount import is_localised
from erofs_fs.mount_table import mount_table

INIT: Final = Path("/proc/1/ns/mnt")
OWN: Final = Path("/proc/self/ns/mnt")
# Of the other driver's mounts, whose servers end with the last copy of each; as in `fuse_fs.mount_options`.
FUSE_TYPE: Final = "fuse.nopull"
_CLONE_NEWNS: Final = 0x00020000
_REC, _SLAVE, _DETACH = 16384, 1 << 19, 2

_libc = ctypes.CDLL(None, use_errno=True)


def leave_starters_namespace(place: Path) -> None:
    """Enter the mount namespace of the machine's first process, if the directory *place* is the same there.

    Where that cannot be looked at, enter a new one, in which no image is mounted. Before the process has
    threads.
    """
    try:
        if OWN.readlink() == INIT.readlink() or _join(INIT, place):
            return
    except PermissionError:
        pass
    with suppress(OSError):
        _enter_new()


def _join(namespace: Path, place: Path) -> bool:
    here = place.stat()
    target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    back = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(target, _CLONE_NEWNS))
        with suppress(OSError):
            there = place.stat()
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                return True
        _checked(_libc.setns(back, _CLONE_NEWNS))
    finally:
        os.close(target)
        os.close(back)
    return False


def _enter_new() -> None:
    _checked(_libc.unshare(_CLONE_NEWNS))
    # What is unmounted elsewhere goes here, too, where mounts are shared.
    _checked(_libc.mount(None, b"/", None, ctypes.c_ulong(_REC | _SLAVE), None))
    for entry in reversed(mount_table()):
        if entry.fstype == FUSE_TYPE or is_localised(entry):
            _libc.umount2(os.fsencode(entry.mountpoint), _DETACH)


def _checked(found: int) -> None:
    if found != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
