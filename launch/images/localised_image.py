"""The localised form of an image, kept beside its documents; that it is there says that it was checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from chunk_store.window_file import WindowDirectory
from erofs_fs.localised_file import LOCALISED
from launch.apart import apart
from launch.errors import ImageInvalid
from launch.images.lazy_image import LazyImage
from launch.root import state_directory
from launch.whole_file import write_whole
from rafs.blob_meta import BlobMeta
from rafs.check import check_bootstrap, check_chunks
from rafs.errors import FormatInvalid
from rafs.localise import localise
from rafs.localised import LOCALISED_VERSION, read_devices
from rafs.window_slots import WindowDevice
from rafs.windows import cut_windows

log = logging.getLogger("nopull.kernel_mount")

NAME = f"{LOCALISED}{LOCALISED_VERSION}.erofs"


def kept_image(
    image: LazyImage, root: Path, windows: WindowDirectory
) -> tuple[Path, tuple[WindowDevice, ...]]:
    """The localised form of *image* and its windows: as it was kept, or made now. Each window has a file
    among *windows* then.

    Raises: as `make_kept`.
    """
    return find_kept(image, root, windows) or make_kept(image, root, windows)


def find_kept(
    image: LazyImage, root: Path, windows: WindowDirectory
) -> tuple[Path, tuple[WindowDevice, ...]] | None:
    """As `kept_image` if it is kept already, without the image's tables; else None.

    Raises:
        OSError: a file cannot be made.
    """
    path = _path(image, root)
    try:
        devices = read_devices(path.read_bytes())
    except FileNotFoundError:
        return None
    except FormatInvalid as error:
        log.warning("%s is made again: %s", path, error)
        return None
    windows.reserve(device.id for device in devices)
    return path, devices


def make_kept(
    image: LazyImage, root: Path, windows: WindowDirectory
) -> tuple[Path, tuple[WindowDevice, ...]]:
    """As `kept_image`, of what is checked, made and kept now. That takes a while, during which other threads
    go on undisturbed.

    Raises:
        ImageInvalid: the check found something; nothing is kept.
        rafs.RafsError: it has too many windows.
        OSError: a file cannot be made.
    """
    path, store = _path(image, root), windows.path.parent
    blobs = image.blobs  # not in the child: another thread may be reading them, and there is none there
    apart(lambda: _make(image, blobs, path, store))
    return path, read_devices(path.read_bytes())


def _path(image: LazyImage, root: Path) -> Path:
    directory = image.directory or state_directory(root, "bare") / image.digest.partition(":")[2]
    return directory / NAME


def _make(image: LazyImage, blobs: Sequence[BlobMeta], path: Path, store: Path) -> None:
    findings = check_bootstrap(image.stored.raw) or check_chunks(image.stored.raw, blobs)
    if findings:
        more = f" and {len(findings) - 1} more" if len(findings) > 1 else ""
        raise ImageInvalid(
            f"{image.reference.familiar()} breaks its format, so it is not mounted: {findings[0]}{more};"
            " `nopull check` lists them; convert the image again"
        )
    raw = localise(image.bootstrap, blobs, [cut_windows(meta) for meta in blobs])
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # Its sum tells whether it is whole.
    write_whole(path, raw, durable=False)
    for older in path.parent.glob(f"{LOCALISED}*.erofs"):
        if older != path:
            # Mounts of it go on: they have the file open, and its holds have another name of it.
            older.unlink(missing_ok=True)
    WindowDirectory(store).reserve(device.id for device in read_devices(raw))
