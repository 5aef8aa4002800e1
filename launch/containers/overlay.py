"""The writable layer of a container: overlayfs over a mounted image, in a mount namespace of our own.

In a private namespace nothing of this is visible to the rest of the machine, and the kernel takes all of it
away when the last process in it ends, however that ends. What else is in the directory is `containers`'
business.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from erofs_fs import syscalls
from launch.containers.run_errors import OverlayFailed, RootNeeded

_NOATIME = 1024  # MS_NOATIME


def enter_private_namespace() -> None:
    """Give this process its own mount namespace; mounts of the host still arrive, ours do not leave.

    Call before starting threads or children that are to share it.

    Raises:
        RootNeeded: we may not (CAP_SYS_ADMIN is missing).
    """
    try:
        syscalls.enter_new_mount_namespace()
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
            syscalls.mount(b"overlay", target, b"overlay", _NOATIME, f"{layers},volatile".encode())
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            syscalls.mount(b"overlay", target, b"overlay", _NOATIME, layers.encode())
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
        syscalls.unmount(target, lazy=False)
    except OSError as error:
        if error.errno == errno.EBUSY:
            syscalls.unmount(target, lazy=True)
        elif error.errno not in (errno.EINVAL, errno.ENOENT, errno.EPERM):
            raise
