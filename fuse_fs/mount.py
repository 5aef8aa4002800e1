"""Serve an image tree through FUSE until it is unmounted, or until this process is told to end.

Whole life of a mount that has a process of its own; the parts are in `device` and `session`. Does not decide
where to mount, does not fork, and knows nothing of registries.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fuse_fs.device import detach, mount_device, require_fuse
from fuse_fs.session import Session
from fuse_fs.tree import ImageTree
from fuse_fs.wake_ups import WakeUp, WakeUps

LIBRARY = "NOPULL_FUSE_LIBRARY"  # environment; `libfuse2`: through `libfuse` instead of our own protocol

_LEAVE_SECONDS = 1.0  # for requests that are being answered when the mount is gone, or we are to end


def require() -> None:
    """Return if mounts can be made here.

    Raises:
        FuseMissing: a part is not there; the message says what to do.
    """
    require_fuse()
    if _by_libfuse():
        from fuse_fs.libfuse import load_libfuse

        load_libfuse()


def serve(
    tree: ImageTree,
    mountpoint: Path,
    *,
    on_ready: Callable[[], None],
    allow_other: bool,
    fsname: str,
    on_stop: Callable[[], None] = lambda: None,
    asked: dict[int, int] | None = None,
) -> None:
    """Mount *tree* on *mountpoint* and answer until it is unmounted; then return.

    Must be called in the main thread. *on_ready* is called from another thread once the kernel has taken up
    the mount; it must not look at *mountpoint* itself (a thread it starts may). SIGTERM, SIGINT and SIGHUP
    unmount: *on_stop* is called, which should make reads that wait for something fail, and the mount is
    detached even if it is in use; what is open there fails when this process ends. *asked*: see `Session`.

    Raises:
        FuseMissing: this machine cannot do FUSE.
        MountFailed: the kernel, or what is between, refused.
    """
    if _by_libfuse():
        from fuse_fs import libfuse

        libfuse.serve(
            tree, mountpoint, on_ready=on_ready, allow_other=allow_other, fsname=fsname, on_stop=on_stop
        )
        return
    require_fuse()
    with WakeUps() as wake_ups:
        device = mount_device(mountpoint, allow_other=allow_other, fsname=fsname)
        counts = {} if asked is None else asked
        session = Session(tree, device, on_ready, wake_ups.call, counts)
        session.start()
        if wake_ups.wait() is WakeUp.STOP:
            on_stop()
            detach(mountpoint)
            wake_ups.wait(_LEAVE_SECONDS)
        if session.wait(0):
            session.close(_LEAVE_SECONDS)
        # Else it is held by open files, until this process ends.


def _by_libfuse() -> bool:
    return os.environ.get(LIBRARY) == "libfuse2"
