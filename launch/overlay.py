"""The writable layer of a container: overlayfs over a mounted image, in a mount namespace of our own.

In a private namespace nothing of this is visible to the rest of the machine, and the kernel takes all of it
away when the last process in it ends, however that ends. What else is in the directory is `containers`'
business.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from launch.run_errors import OverlayFailed, RootNeeded

# sched.h, sys/mount.h
CLONE_NEWNS = 0x00020000
MS_NOATIME = 1024
MS_REC = 16384
MS_SLAVE = 1 << 19
MNT_DETACH = 2


def enter_private_namespace() -> None:
    """Give this process its own mount namespace; mounts of the host still arrive, ours do not leave.

    Call before starting threads or children that are to share it.

    Raises:
        RootNeeded: we may not (CAP_SYS_ADMIN is missing).
    """
    try:
        _call("unshare", CLONE_NEWNS)
        _call("mount", None, b"/", None, MS_REC | MS_SLAVE, None)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise RootNeeded(
                "cannot run a container: that needs root (CAP_SYS_ADMIN); use sudo, or look at the image's"
                " files with `nopull mount`, which works without"
            ) from error
        raise OverlayFailed(f"cannot make a mount namespace for the container: {error.strerror}") from error


def mount_overlay(directory: Path) -> None:
    """Put `merged` = `upper` over `lower` in *directory*, where these and `work` are directories.

    Raises:
        OverlayFailed: the kernel refuses, most often because *directory* is itself on an overlay.
    """
    # Through a descriptor: a path may hold ":" and ",", which overlayfs takes for separators.
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        base = f"/proc/self/fd/{place}"
        layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
        target = os.fsencode(directory / "merged")
        try:
            # Without volatile an unmount writes all of the upper layer to the disk, only to have it deleted.
            _call("mount", b"overlay", target, b"overlay", MS_NOATIME, f"{layers},volatile".encode())
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _call("mount", b"overlay", target, b"overlay", MS_NOATIME, layers.encode())
    except OSError as error:
        raise OverlayFailed(
            f"cannot put a writable layer over the image below {directory}: {error.strerror}; --root must be"
            " on a file system that overlayfs can write to, such as ext4, xfs, btrfs or tmpfs"
        ) from error
    finally:
        os.close(place)


def unmount(target: Path) -> None:
    """Take away what is mounted on *target*, now or when its last user goes.

    Nothing there is fine. So is having no right to: whoever could not mount left nothing to take away.
    """
    try:
        _call("umount2", os.fsencode(target), 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            _call("umount2", os.fsencode(target), MNT_DETACH)
        elif error.errno not in (errno.EINVAL, errno.ENOENT, errno.EPERM):
            raise


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
