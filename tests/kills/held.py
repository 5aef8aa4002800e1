"""An EROFS mount that is held on a store whose windows are absent: nobody watches it, so each page of it is
the image's or an error, at every moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chunk_store.window_file import WindowDirectory
from erofs_fs.mount import mount
from launch.images.lazy_image import open_image
from launch.images.localised_image import kept_image
from launch.mountpoint import detach
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference


@contextmanager
def held(reference: str, root: Path, mountpoint: Path) -> Iterator[Path]:
    """The image *reference*, shown on *mountpoint* by the kernel from whatever the store *root* has."""
    mountpoint.mkdir(exist_ok=True)
    windows = WindowDirectory(root)
    image = open_image(parse_reference(reference), RegistryOptions(), root)
    image.close()
    path, devices = kept_image(image, root, windows)
    hold = root / "held"
    hold.touch()
    mount(path, windows.path, [device.id for device in devices], hold, mountpoint)
    try:
        yield mountpoint
    finally:
        detach(mountpoint, lazy=True)
        windows.close()
