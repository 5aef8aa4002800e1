"""System calls that Python has no names for: mounts, namespaces, processes, threads, inotify, and mlockall.

Thin: flags and numbers from the kernel's headers, an `OSError` where the call fails, and what the kernel says
about it. What the calls are for is their callers' business. Those of fanotify are in `fanotify`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from pathlib import Path

# The same on all architectures but alpha, as all system calls since Linux 5.2.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _PIDFD_GETFD = 428, 429, 430, 431, 432, 438

_CLONE = 1  # OPEN_TREE_CLONE
_LOCK_ALL = 1 | 2  # MCL_CURRENT | MCL_FUTURE
_CLOSED_UNWRITTEN = 0x10  # IN_CLOSE_NOWRITE
_TAKEN_AWAY = 0x40 | 0x200  # IN_MOVED_FROM, IN_DELETE
_CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_SET_STRING, _CREATE = 1, 6
_EMPTY_PATH = 4  # MOVE_MOUNT_F_EMPTY_PATH: the mount itself, not something below it
_AT_FDCWD = -100
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
_RECURSIVE, _SLAVE = 1 << 14, 1 << 19  # MS_REC, MS_SLAVE
_DETACH, _NO_FOLLOW = 2, 8  # MNT_DETACH, UMOUNT_NOFOLLOW
_PEER_PIDFD = 77  # SO_PEERPIDFD, since Linux 6.5

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


def mount(source: bytes, target: bytes, kind: bytes, flags: int, options: bytes) -> None:
    """mount(2): one page of *options* at most."""
    checked(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options))


def unmount(mountpoint: Path, *, lazy: bool) -> None:
    """Take the topmost mount off *mountpoint*, which must be no link; *lazy*: even while it is in use."""
    flags = _NO_FOLLOW | (_DETACH if lazy else 0)
    checked(_libc.umount2(os.fsencode(mountpoint), ctypes.c_int(flags)))


def enter_new_mount_namespace() -> None:
    """Give this process a mount namespace of its own: what is mounted and unmounted elsewhere still arrives
    where mounts are shared, its own mounts do not leave. Before it has threads.
    """
    checked(_libc.unshare(ctypes.c_int(_NEW_MOUNTS)))
    checked(_libc.mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _SLAVE), None))


def enter_mount_namespace(namespace: int) -> None:
    """Enter the mount namespace that the descriptor *namespace* is of. Before the process has threads."""
    checked(_libc.setns(ctypes.c_int(namespace), ctypes.c_int(_NEW_MOUNTS)))


def lock_memory() -> None:
    """Keep all memory of this process, also what it gets later, in RAM."""
    checked(_libc.mlockall(ctypes.c_int(_LOCK_ALL)))


def is_thread_of(pid: int, thread: int) -> bool:
    """Whether the process *pid*, which is above zero, has that thread."""
    found: int = _libc.tgkill(ctypes.c_int(pid), ctypes.c_int(thread), ctypes.c_int(0))
    return found == 0 or ctypes.get_errno() == errno.EPERM


def copy_of_descriptor(pidfd: int, number: int) -> int:
    """A copy of that process's descriptor *number*, closed on exec; it need not be running."""
    return _call(_PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(number), ctypes.c_uint(0))


def kill_listener(connection: socket.socket) -> None:
    """kill -9 the process that listened where *connection* was made, whoever has its number by now."""
    pidfd = connection.getsockopt(socket.SOL_SOCKET, _PEER_PIDFD)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def inotify() -> int:
    """A descriptor that says what happens to what is watched; it does not block."""
    return checked(_libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)))


def inotify_watch_close(descriptor: int, path: bytes) -> int:
    """Have it say when *path* is closed by somebody, also the kernel, who had opened it only to read; the
    number of the watch.
    """
    mask = ctypes.c_uint32(_CLOSED_UNWRITTEN)
    return checked(_libc.inotify_add_watch(ctypes.c_int(descriptor), path, mask))


def inotify_watch_removal(descriptor: int, directory: bytes) -> int:
    """Have it say when something is removed from *directory*; the number of the watch."""
    mask = ctypes.c_uint32(_TAKEN_AWAY)
    return checked(_libc.inotify_add_watch(ctypes.c_int(descriptor), directory, mask))


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


def checked(found: int) -> int:
    """What a function of libc has returned, below zero of a failure; for one loaded with `use_errno`.

    Raises:
        OSError: it has failed.
    """
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


def _call(number: int, *arguments: object) -> int:
    return checked(_libc.syscall(ctypes.c_long(number), *arguments))
