"""System calls that Python has no names for: those of the mount API, inotify, and mlockall.

Thin: flags and numbers from the kernel's headers, an `OSError` where the call fails, and what the kernel says
about it. What the calls are for is `mount`'s business.
"""

from __future__ import annotations

import ctypes
import errno
import os

# The same on all architectures but alpha, as all system calls since Linux 5.2.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432

_CLONE = 1  # OPEN_TREE_CLONE
_LOCK_ALL = 1 | 2  # MCL_CURRENT | MCL_FUTURE
_CLOSED_UNWRITTEN = 0x10  # IN_CLOSE_NOWRITE
_CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_SET_STRING, _CREATE = 1, 6
_EMPTY_PATH = 4  # MOVE_MOUNT_F_EMPTY_PATH: the mount itself, not something below it
_AT_FDCWD = -100

MOUNT_RDONLY = 1
MAX_VALUE = 255  # bytes of a value, without the NUL

_MESSAGE_BYTES = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def fsopen(kind: str) -> int:
    """A descriptor with which a mount of file system *kind* is configured."""
    return _call(_FSOPEN, kind.encode("ascii"), ctypes.c_uint(_CLOEXEC))


def set_string(context: int, key: bytes, value: bytes) -> None:
    """Give an option; an option may be given several times. At most `MAX_VALUE` bytes."""
    _call(_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_SET_STRING), key, value, ctypes.c_int(0))


def create(context: int) -> None:
    """Make the superblock: here the kernel opens and reads what the options name."""
    _call(_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_CREATE), None, None, ctypes.c_int(0))


def fsmount(context: int, attributes: int) -> int:
    """A mount of the superblock that is attached nowhere; it lives as long as the descriptor."""
    return _call(_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(_CLOEXEC), ctypes.c_uint(attributes))


def move_mount(mount: int, target: bytes) -> None:
    """Attach a mount to the directory *target*."""
    _call(_MOVE_MOUNT, ctypes.c_int(mount), b"", ctypes.c_int(_AT_FDCWD), target, ctypes.c_uint(_EMPTY_PATH))


def open_tree_clone(directory: bytes) -> int:
    """A private mount of what lies below *directory*, attached nowhere; lives as long as its descriptor."""
    return _call(_OPEN_TREE, ctypes.c_int(_AT_FDCWD), directory, ctypes.c_uint(_CLONE | os.O_CLOEXEC))


def lock_memory() -> None:
    """Keep all memory of this process, also what it gets later, in RAM."""
    _checked(_libc.mlockall(ctypes.c_int(_LOCK_ALL)))


def inotify() -> int:
    """A descriptor that says when watched files were closed; it does not block."""
    return _checked(_libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)))


def inotify_watch_close(descriptor: int, path: bytes) -> int:
    """Have it say when *path* is closed by somebody, also the kernel, who had opened it only to read; the
    number of the watch.
    """
    mask = ctypes.c_uint32(_CLOSED_UNWRITTEN)
    return _checked(_libc.inotify_add_watch(ctypes.c_int(descriptor), path, mask))


def inotify_forget(descriptor: int, watch: int) -> None:
    """No longer; no error if the file is gone."""
    _libc.inotify_rm_watch(ctypes.c_int(descriptor), ctypes.c_int(watch))


def messages(context: int) -> list[str]:
    """What the kernel has said about a context since it was last asked, without its level letters."""
    said: list[str] = []
    while True:
        try:
            line = os.read(context, _MESSAGE_BYTES)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EMSGSIZE):
                return said
            raise
        said.append(line.decode("utf-8", "replace").strip().partition(" ")[2])


def _call(number: int, *arguments: object) -> int:
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments))


def _checked(found: int) -> int:
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found
