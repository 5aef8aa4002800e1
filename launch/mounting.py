"""Mount an image by whatever driver shows it best here; each driver's own way is in its module."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from erofs_fs.errors import ErofsError, ErofsMissing
from erofs_fs.holds import hold_path, lives
from launch import mounts
from launch.claim import Claim
from launch.driver_choice import Choice, Driver, choose_driver
from launch.errors import MountImpossible, NotMounted
from launch.kernel_mount import KernelMount
from launch.mount_request import MountRequest
from launch.mountpoint import detach
from launch.mounts import MountRecord
from launch.store_options import store_root
from rafs.errors import FormatUnsupported, ImageTooLarge

# What FUSE can do although the kernel cannot.
UNSUITABLE = (ErofsError, FormatUnsupported, ImageTooLarge)
_LOOK_SECONDS = 0.5


def mount_image(
    request: MountRequest, *, foreground: bool, on_ready: Callable[[MountRecord], None]
) -> None:
    """Mount what *request* says; *on_ready* is called when the mount answers.

    With *foreground* the return is after the end of the mount, which signals that end processes take away.
    Main thread only, and before the process has others.

    Raises:
        what the drivers raise: `server.start_mount`, `kernel_mount.KernelMount`, `filled_mount.mount_filled`.
        MountImpossible: a kernel mount has no server of its own that could serve metrics.
    """
    if request.shared:
        from launch.shared_mount import mount_shared

        on_ready(mount_shared(request))
        return
    choice = choose(request)
    if choice.driver is Driver.EROFS:
        try:
            with Claim(request.mountpoint) as claim:
                record = KernelMount(request, choice.reason).put(claim.mountpoint)
        except UNSUITABLE as error:
            choice = instead(request, error)
    if choice.driver is Driver.FUSE:
        from launch.server import start_mount

        served = replace(request, driver_reason=choice.reason)
        start_mount(served, foreground=foreground, on_ready=on_ready)
        return
    if choice.driver is Driver.FILLED:
        from builder.progress import shown_progress
        from launch.filled_mount import mount_filled

        with shown_progress(sys.stderr) as progress:
            record = mount_filled(request, choice.reason, progress)
    on_ready(record)
    if foreground:
        _stay(request, record)


def choose(request: MountRequest) -> Choice:
    """`choose_driver` for *request*."""
    place = store_root(request.root, request.image.reference, isolate=request.isolate)
    return choose_driver(request.driver, place, metrics=request.metrics_address is not None)


def instead(request: MountRequest, error: Exception) -> Choice:
    """What may show the image after a kernel mount of it failed with *error*, one of `UNSUITABLE`.

    Raises:
        error: nothing may.
    """
    if request.driver == "auto":
        return Choice(Driver.FUSE, str(error))
    if isinstance(error, ErofsMissing):
        choice = choose(request)
        if choice.driver is not Driver.EROFS:
            return choice
    raise error


def _stay(request: MountRequest, record: MountRecord) -> None:
    """Return when the mount is gone, or take it away when told to end."""
    assert record.store is not None, "kernel mounts have a store"
    path = hold_path(record.store, record.id)
    stopping = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    while lives(path):
        if signal.sigtimedwait(stopping, _LOOK_SECONDS) is not None:
            with suppress(NotMounted, MountImpossible):
                detach(record.mountpoint, lazy=True)
            break
    mounts.forget(request.root, record)
