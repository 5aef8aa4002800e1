"""Serve an image tree through FUSE until it is unmounted, or until this process is told to end.

Whole life of a mount that has a process of its own; the parts are in `device` and `session`. Does not decide
where to mount, does not fork, and knows nothing of registries.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

from fuse_fs.device import detach, mount_device, require_fuse
from fuse_fs.session import Session
from fuse_fs.tree import ImageTree

LIBRARY = "NOPULL_FUSE_LIBRARY"  # environment; `libfuse2`: through `libfuse` instead of our own protocol

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
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
    # Its `put` may be called by a signal's function, whatever the main thread is at.
    told: SimpleQueue[str] = SimpleQueue()
    with signals_as_words(told):
        device = mount_device(mountpoint, allow_other=allow_other, fsname=fsname)
        counts = {} if asked is None else asked
        session = Session(tree, device, on_ready, lambda: told.put("gone"), counts)
        session.start()
        if told.get() == "stop":
            on_stop()
            detach(mountpoint)
            with contextlib.suppress(Empty):
                told.get(timeout=_LEAVE_SECONDS)
        if session.wait(0):
            session.close(_LEAVE_SECONDS)
        # Else it is held by open files, until this process ends.


def _by_libfuse() -> bool:
    return os.environ.get(LIBRARY) == "libfuse2"


@contextlib.contextmanager
def signals_as_words(told: SimpleQueue[str]) -> Iterator[None]:
    """While entered, a signal to end puts "stop" into *told*."""
    before = {number: signal.signal(number, lambda *_: told.put("stop")) for number in _STOPPING}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
