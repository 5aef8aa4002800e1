"""Mount through the kernel an image that is all local: no process is needed then, nor anything but EROFS.

For kernels that do not ask before they read, so that nobody can fill what is absent while a reader waits: the
image is filled first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from builder.progress import Progress
from chunk_store import ChunkStore, Limits
from chunk_store.byte_size import human_size
from chunk_store.window_file import WindowDirectory
from erofs_fs.holds import hold_path, make_hold
from erofs_fs.mount import mount
from erofs_fs.probe import probe, require_root
from launch.claim import Claim
from launch.errors import ImageIncomplete, MountImpossible
from launch.held_signals import HeldSignals
from launch.images.filling import fill
from launch.images.lazy_image import LazyImage, open_request
from launch.images.localised_image import kept_image
from launch.kernel_mounts.kernel_record import record_kernel_mount, withdraw
from launch.kernel_mounts.silent_keeper import see_to_keeper
from launch.mount_request import MountRequest
from launch.mounts import MountRecord, new_id
from launch.store_options import store_root
from rafs.counted import counted
from rafs.window_slots import WindowDevice


def mount_filled(
    request: MountRequest,
    reason: str,
    progress: Progress,
    held: HeldSignals,
    *,
    viewer: int | None = None,
) -> MountRecord:
    """Mount what *request* says; return when it is mounted, with its record, in which there is no process.

    What is not local is fetched first, unless the request forbids fetching in the background. Interrupted or
    failed, it leaves no mount; what was fetched stays. *held*, *viewer*: as in `KernelMount.put`.

    Raises:
        erofs_fs.ErofsError: this machine cannot do it; nothing was fetched.
        ImageIncomplete: not all is local, and nothing may be fetched.
        ImageInvalid: the image breaks a rule of its format. It is never mounted.
        what `images.open_image`, `mountpoint.prepare` and the filling of a store raise.
    """
    require_root()
    with ExitStack() as undo:
        claim = undo.enter_context(Claim(request.mountpoint))
        place = store_root(request.root, request.image.reference, isolate=request.isolate)
        see_to_keeper(place, request.root)
        store = undo.enter_context(ChunkStore(place, limits=Limits(cache_bytes=request.image.cache_size)))
        probe(place)
        image = open_request(request.image, request.root)
        undo.callback(image.close)
        path, devices = kept_image(image, request.root, store.directory)

        def incomplete(missing: int) -> ImageIncomplete:
            return ImageIncomplete(
                f"a kernel mount of {image.reference.familiar()} needs all of it, {human_size(missing)} are"
                " not here: leave out --no-background to fetch them first, or use the driver fuse"
            )

        refusal = None if request.image.background else incomplete
        fill(store, image, progress, patience=request.image.options.timeout, refusal=refusal)
        # Files of nobody's content: a window that is gone by now is found below, not by the kernel.
        store.directory.reserve(device.id for device in devices)
        mount_id = new_id()
        hold = make_hold(place, mount_id, path, None)
        undo.callback(os.close, hold)
        names = [device.id for device in devices]
        held.hold()
        mount(path, store.directory.path, names, hold_path(place, mount_id), claim.mountpoint)
        try:
            _require_whole(image, store.directory, devices)
            return record_kernel_mount(
                request.root,
                mount_id,
                claim.mountpoint,
                store=store.root,
                reference=image.reference.familiar().partition("@")[0],
                digest=image.digest,
                reason=reason,
                lazy=False,
                background=True,
                config=image.config_path,
                image=image.directory,
                viewer=viewer,
                warnings=image.warnings,
            )
        except BaseException:
            withdraw(request.root, claim.mountpoint)
            raise


def _require_whole(
    image: LazyImage, directory: WindowDirectory, devices: Sequence[WindowDevice]
) -> None:
    """Return if all windows are whole now that the mount holds them: from now on nobody takes them away."""
    lacking = sum(directory.size(device.id) != device.length for device in devices)
    if lacking:
        raise MountImpossible(
            f"mounting {image.reference.familiar()}: {counted(lacking, 'window')} taken away meanwhile;"
            " try again"
        )
