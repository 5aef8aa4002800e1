"""The localised form of an image, kept beside its documents; that it is there says that it was checked."""

from __future__ import annotations

import logging
from pathlib import Path

from erofs_fs.localised_file import LOCALISED
from launch.errors import ImageInvalid
from launch.images import LazyImage
from launch.root import state_directory
from launch.whole_file import write_whole
from rafs.check import check_bootstrap, check_chunks
from rafs.errors import FormatInvalid
from rafs.localise import localise
from rafs.localised import LOCALISED_VERSION, read_devices
from rafs.window_slots import WindowDevice
from rafs.windows import cut_windows

log = logging.getLogger("nopull.kernel_mount")

NAME = f"{LOCALISED}{LOCALISED_VERSION}.erofs"


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
    for older in directory.glob(f"{LOCALISED}*.erofs"):
        if older != path:
            older.unlink(missing_ok=True)  # mounts of it go on: they hold the file, not its name
    return path, read_devices(raw)
