"""Mount an image by whatever driver shows it best here; each driver's own way is in its module."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import replace

from erofs_fs.errors import ErofsError, ErofsMissing
from erofs_fs.holds import hold_path, lives
from launch.claim import Claim
from launch.driver_choice import Choice, Driver, choose_driver
from launch.held_signals import ENDING, HeldSignals
from launch.kernel_mounts.kernel_mount import KernelMount
from launch.kernel_mounts.kernel_record import withdraw
from launch.mount_request import MountRequest
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
    Without, they take it away until *on_ready* has returned. Main thread only, and before the process has
    others.

    Raises:
        what the drivers raise: `server.start_mount`, `kernel_mount.KernelMount`, `filled_mount.mount_filled`.
        MountImpossible: a kernel mount has no server of its own that could serve metrics.
    """
    if request.shared:
        from launch.fuse_mounts.shared_mount import mount_shared

        mount_shared(request, on_ready)
        return
    choice = choose(request)
    with HeldSignals() as held:
        if choice.driver is Driver.EROFS:
            try:
                with Claim(request.mountpoint) as claim:
                    record = KernelMount(request, choice.reason).put(claim.mountpoint, held)
            except UNSUITABLE as error:
                held.release()
                choice = instead(request, error)
        if choice.driver is Driver.FUSE:
            from launch.fuse_mounts.server import start_mount

            served = replace(request, driver_reason=choice.reason)
            start_mount(served, foreground=foreground, on_ready=on_ready)
            return
        if choice.driver is Driver.FILLED:
            from builder.progress import shown_progress
            from launch.kernel_mounts.filled_mount import mount_filled

            with shown_progress(sys.stderr) as progress:
                record = mount_filled(request, choice.reason, progress, held)

        def undo() -> None:
            withdraw(request.root, record.mountpoint, record)

        try:
            on_ready(record)
            if foreground:
                _stay(record, held, undo)
            held.release(undo)
        except BaseException:
            undo()
            raise


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


def _stay(record: MountRecord, held: HeldSignals, undo: Callable[[], None]) -> None:
    """Return when the mount is gone, or when told to end; `undo` is done then."""
    assert record.store is not None, "kernel mounts have a store"
    path = hold_path(record.store, record.id)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    while lives(path):
        if held.noted or signal.sigtimedwait(ENDING, _LOOK_SECONDS) is not None:
            held.noted.clear()  # it has had its effect
            break
    undo()
