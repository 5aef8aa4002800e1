"""The kernel's end of a FUSE mount: open the device, mount it on a directory, take the mount away.

As root by mount(2); for others fusermount3, which is set-uid, opens the device and hands its descriptor over.
Does not talk through the device: that is `session`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
from array import array
from pathlib import Path

from fuse_fs.errors import FuseMissing, MountFailed
from fuse_fs.mount_options import FUSE_TYPE, SUBTYPE, fsname_option

DEVICE = Path("/dev/fuse")

_MS_RDONLY = 1
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_PROGRAMS = ("fusermount3", "fusermount")


def require_fuse() -> None:
    """Return if this machine and user can make FUSE mounts.

    Raises:
        FuseMissing: a part is not there; the message says what to do.
    """
    if not DEVICE.exists():
        raise FuseMissing(f"mounting through FUSE: there is no {DEVICE}; load the kernel's module fuse")
    if os.geteuid() == 0:
        return
    _program()
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise FuseMissing(
            f"mounting through FUSE: this user may not open {DEVICE}, which udev gives to everybody (0666)"
        )


def mount_device(mountpoint: Path, *, allow_other: bool, fsname: str) -> int:
    """Mount on *mountpoint*, an absolute path; return the descriptor to serve it by, the caller's.

    Whoever touches the mount waits until somebody serves; when the last descriptor is closed, it is dead.

    Raises:
        FuseMissing: as `require_fuse`.
        MountFailed: the kernel or fusermount3 refused.
    """
    if os.geteuid() != 0:
        return _mounted_by_program(mountpoint, allow_other=allow_other, fsname=fsname)
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountFailed(f"mounting on {mountpoint} through FUSE: {DEVICE}: {error.strerror}") from error
    options = [f"fd={device}", "rootmode=40000", "user_id=0", "group_id=0", "default_permissions"]
    if allow_other:
        options.append("allow_other")
    libc = ctypes.CDLL(None, use_errno=True)
    words = (os.fsencode(fsname), os.fsencode(mountpoint), FUSE_TYPE.encode())
    # Not nosuid, not nodev: images hold set-uid programs and device nodes.
    if libc.mount(*words, ctypes.c_ulong(_MS_RDONLY), ",".join(options).encode()):
        number = ctypes.get_errno()
        os.close(device)
        raise MountFailed(f"mounting on {mountpoint} through FUSE: {os.strerror(number)}")
    return device


def detach(mountpoint: Path) -> None:
    """Take the topmost mount off *mountpoint*, also while it is in use; nothing if there is none."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(mountpoint), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        return
    subprocess.run([_program(), "-u", "-q", "-z", "--", mountpoint], capture_output=True, check=False)


def _mounted_by_program(mountpoint: Path, *, allow_other: bool, fsname: str) -> int:
    options = ["ro", "default_permissions", fsname_option(fsname), f"subtype={SUBTYPE}"]
    if allow_other:
        options.append("allow_other")
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with its:
            done = subprocess.run(
                [_program(), "-o", ",".join(options), "--", mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(its.fileno()), "LC_ALL": "C"},
                pass_fds=[its.fileno()], stderr=subprocess.PIPE, text=True, errors="replace", check=False,
            )  # fmt: skip
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"fusermount3 ended with {done.returncode}"
            raise MountFailed(f"mounting on {mountpoint} through FUSE: {reason}")
        found = array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(found.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: found.itemsize])
    if not found:
        raise MountFailed(f"mounting on {mountpoint} through FUSE: fusermount3 gave no descriptor")
    return found[0]


def _program() -> str:
    """
    Raises:
        FuseMissing: there is no such program.
    """
    for name in _PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise FuseMissing("mounting through FUSE without root: no fusermount3 here; install the package fuse3")


def is_gone(error: OSError) -> bool:
    """Whether *error* of the device says that the mount is."""
    return error.errno in (errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN)
