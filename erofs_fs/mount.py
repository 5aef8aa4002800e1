"""Mount a localised image: its file as the primary device, the files of its windows as the others.

Made by fsopen and fsconfig, because mount(2) takes one page of options and mount(8) makes loop devices of
files. Afterwards no process is needed: the kernel holds image and windows open. It knows nothing of stores
or of what a window's bytes must be; a window whose file is empty or short reads as an error, never as zeros.
Standard library only: the keeper mounts, too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from chunk_store.doorway import window_place
from chunk_store.short_name import short_name
from erofs_fs import syscalls
from erofs_fs.errors import ErofsError, ErofsForbidden, ErofsMissing, MountFailed
from erofs_fs.localised_file import LOCALISED
from erofs_fs.mount_table import KERNEL_TYPE, MountEntry

# What the kernel means by the errnos that do not say it themselves.
_MEANINGS = {
    errno.ENOTBLK: "the file system it lies on cannot carry EROFS images in files (tmpfs and overlayfs "
    "cannot, ext4, xfs and btrfs can); choose another place with --root, or the driver fuse",
    errno.ENODEV: "this kernel has no EROFS (CONFIG_EROFS_FS); use the driver fuse",
    errno.EINVAL: "EROFS of this kernel does not take the image; dmesg says why",
    errno.EUCLEAN: "the image is damaged",
    errno.EBADMSG: "the image's superblock is damaged",
    errno.ENOENT: "a window of the image has no file",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
}
_MISSING = frozenset({errno.ENOTBLK, errno.ENODEV, errno.ENOSYS})
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})


def mount(image: Path, windows: Path, window_ids: Sequence[str], hold: Path, mountpoint: Path) -> None:
    """Mount *image* on the directory *mountpoint*; what else is needed is said at `detached`.

    Raises:
        ErofsMissing, ErofsForbidden, MountFailed: the kernel refused, and nothing is mounted.
    """
    descriptor = detached(image, windows, window_ids, hold)
    try:
        attach(descriptor, mountpoint)
    finally:
        os.close(descriptor)


def attach(descriptor: int, mountpoint: Path) -> None:
    """Mount what `detached` made on the directory *mountpoint* of this process's mount namespace.

    Raises:
        ErofsForbidden, MountFailed: the kernel refused.
    """
    try:
        syscalls.move_mount(descriptor, os.fsencode(mountpoint))
    except OSError as error:
        raise _refusal(f"mounting on {mountpoint}", error, []) from error


def is_localised(entry: MountEntry) -> bool:
    """Whether this is a mount of a localised image, of whichever store."""
    return entry.fstype == KERNEL_TYPE and Path(entry.source).name.startswith(LOCALISED)


def detached(image: Path, windows: Path, window_ids: Sequence[str], hold: Path) -> int:
    """*image* mounted nowhere yet, read-only; a descriptor of its root, the caller's, which may be used as
    `dir_fd`. When it is closed the mount is gone, unless it was attached to a place by then.

    *window_ids* are those that `rafs.localised.read_devices` finds in it; the file of each must exist below
    *windows*, where `chunk_store.doorway.window_place` says. Whoever calls sees to it that they stay where
    they are until this returns; afterwards the mount holds them. So it does *hold*, a file of its own
    (`holds`).

    Raises:
        ErofsMissing, ErofsForbidden, MountFailed: the kernel refused.
    """
    try:
        shelf = os.open(windows, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if window_ids else -1
    except OSError as error:
        raise MountFailed(
            f"mounting {image}: cannot open its windows in {windows}: {error.strerror}"
        ) from error
    try:
        return _mounted(image, shelf, window_ids, hold)
    finally:
        if shelf >= 0:
            os.close(shelf)


def _mounted(image: Path, shelf: int, window_ids: Sequence[str], hold: Path) -> int:
    doing = f"mounting {image} with {len(window_ids)} window(s)"
    context = -1
    try:
        context = syscalls.fsopen(KERNEL_TYPE)
        with _source(image) as source:
            syscalls.set_string(context, b"source", os.fsencode(source))
            prefix = b"/proc/self/fd/%d/" % shelf  # values are short, paths need not be
            for window_id in window_ids:
                syscalls.set_string(context, b"device", prefix + window_place(window_id).encode("ascii"))
            with _source(hold) as last:
                syscalls.set_string(context, b"device", os.fsencode(last))
                syscalls.create(context)
        return syscalls.fsmount(context, syscalls.MOUNT_RDONLY)
    except OSError as error:
        said = syscalls.messages(context) if context >= 0 else []
        raise _refusal(doing, error, said) from error
    finally:
        if context >= 0:
            os.close(context)


def _source(path: Path) -> AbstractContextManager[str]:
    """*path* as it is, so that the mount table shows it, unless that is too long."""
    return short_name(path) if len(os.fsencode(path)) > syscalls.MAX_VALUE else nullcontext(os.fspath(path))


def _refusal(doing: str, error: OSError, said: Sequence[str]) -> ErofsError:
    code = error.errno or 0
    kernel = f" (the kernel: {'; '.join(said)})" if said else ""
    if code in _FORBIDDEN:
        return ErofsForbidden(f"{doing}: {error.strerror}{kernel}; mounts of the kernel need root")
    meaning = _MEANINGS.get(code)
    text = f"{doing}: {error.strerror}{kernel}" + (f": {meaning}" if meaning else "")
    return ErofsMissing(text) if code in _MISSING else MountFailed(text)
