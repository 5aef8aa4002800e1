"""Mount through the kernel: no process is needed afterwards, and everything has to be local before.

What absent data would need, somebody who fills it while a reader waits, does not exist here: an image is
filled first, and read errors are all that is seen of a window that is taken away later. The localised image
is made once and kept beside the image's documents; that it is there says that the image was found sound.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from builder.progress import Progress
from chunk_store import ChunkStore, Limits
from chunk_store.window_file import WindowDirectory
from erofs_fs.mount import mount
from erofs_fs.probe import probe, require_root
from launch import mounts
from launch.errors import ImageIncomplete, ImageInvalid, MountImpossible
from launch.filling import fill
from launch.images import LazyImage, open_image
from launch.mountpoint import KERNEL_TYPE, detach, mount_at
from launch.mounts import MountRecord
from launch.root import state_directory
from launch.session import Claim, MountRequest, new_id
from launch.store_options import store_root
from launch.whole_file import write_whole
from rafs.check import check_bootstrap, check_chunks
from rafs.errors import FormatInvalid
from rafs.localise import localise
from rafs.localised import LOCALISED_VERSION, WindowDevice, read_devices
from rafs.windows import cut_windows

log = logging.getLogger("nopull.kernel_mount")

DRIVER = "erofs"
NAME = f"localised-{LOCALISED_VERSION}.erofs"


def mount_kernel(request: MountRequest, progress: Progress) -> MountRecord:
    """Mount what *request* says; return when it is mounted, with its record, in which there is no process.

    What is not local is fetched first, unless the request forbids fetching in the background. Interrupted or
    failed, it leaves no mount; what was fetched stays.

    Raises:
        erofs_fs.ErofsError: this machine cannot do it; nothing was fetched.
        ImageIncomplete: not all is local, and nothing may be fetched.
        ImageInvalid: the image breaks a rule of its format. It is never mounted.
        what `images.open_image`, `mountpoint.prepare` and the filling of a store raise.
    """
    require_root()
    with ExitStack() as undo:
        claim = undo.enter_context(Claim(request.mountpoint))
        place = store_root(request.root, request.reference, isolate=request.isolate)
        store = undo.enter_context(ChunkStore(place, limits=Limits(cache_bytes=request.cache_size)))
        probe(place)
        image = open_image(
            request.reference, request.options, request.root, request.platform, blob_dir=request.blob_dir
        )
        undo.callback(image.close)
        path, devices = kept_image(image, request.root)

        def incomplete(missing: int) -> ImageIncomplete:
            return ImageIncomplete(
                f"a kernel mount of {image.reference.familiar()} needs all of it, {missing / 1e6:.1f} MB are"
                " not here: leave out --no-background to fetch them first, or use the driver fuse"
            )

        refusal = None if request.background else incomplete
        fill(store, image, progress, patience=request.options.timeout, refusal=refusal)
        # Files of nobody's content: a window that is gone by now is found below, not by the kernel.
        store.directory.reserve(device.id for device in devices)
        mount(path, store.directory.path, devices, claim.mountpoint)
        try:
            return _recorded(request, image, claim.mountpoint, store.directory, devices)
        except BaseException:
            detach(claim.mountpoint, lazy=True)
            raise


def kept_image(image: LazyImage, root: Path) -> tuple[Path, tuple[WindowDevice, ...]]:
    """The localised form of *image* and its windows: as it was kept, or checked, made and kept now.

    Raises:
        ImageInvalid: the check found something; nothing is kept.
        rafs.RafsError: it has too many windows, or blocks of another size.
    """
    directory = image.directory or state_directory(root, "bare") / image.digest.partition(":")[2]
    path = directory / NAME
    try:
        return path, read_devices(path.read_bytes())
    except FileNotFoundError:
        pass
    except FormatInvalid as error:
        log.warning("%s is made again: %s", path, error)
    findings = check_bootstrap(image.bootstrap.raw) or check_chunks(image.bootstrap.raw, image.blobs)
    if findings:
        more = f" and {len(findings) - 1} more" if len(findings) > 1 else ""
        raise ImageInvalid(
            f"{image.reference.familiar()} breaks its format, so it is not mounted: {findings[0]}{more};"
            " `nopull check` lists them; convert the image again"
        )
    raw = localise(image.bootstrap, image.blobs, [cut_windows(meta) for meta in image.blobs])
    directory.mkdir(mode=0o700, exist_ok=True)
    write_whole(path, raw)
    for older in directory.glob("localised-*.erofs"):
        if older != path:
            older.unlink(missing_ok=True)  # mounts of it go on: they hold the file, not its name
    return path, read_devices(raw)


def _recorded(
    request: MountRequest,
    image: LazyImage,
    mountpoint: Path,
    directory: WindowDirectory,
    devices: Sequence[WindowDevice],
) -> MountRecord:
    """The record of what was just mounted, written; it can be relied on that all its windows are whole."""
    # From now on the mount holds its windows, so what they are is not going to change any more.
    lacking = sum(directory.size(device.id) != device.length for device in devices)
    if lacking:
        raise MountImpossible(
            f"mounting {image.reference.familiar()}: {lacking} windows were taken away meanwhile; try again"
        )
    entry = mount_at(mountpoint)
    if entry is None or entry.fstype != KERNEL_TYPE:
        raise MountImpossible(f"{mountpoint} was unmounted or mounted over before it was ready")
    mount_id = new_id()
    record = MountRecord(
        id=mount_id,
        mountpoint=mountpoint,
        reference=image.reference.familiar().partition("@")[0],
        digest=image.digest,
        driver=DRIVER,
        pids={},
        births={},
        started=time.time(),
        device=entry.device,
        control=state_directory(request.root, "run") / f"{mount_id}.sock",
        log=state_directory(request.root, "log") / f"{mount_id}.log",
        config=image.config_path,
        image=image.directory,
        store=directory.path.parent,
        warnings=image.warnings,
    )
    mounts.write_record(request.root, record)
    return record
