"""Whether a kernel mount's windows can all come to be here: its readers have no other place to read from."""

from __future__ import annotations

import shutil

from chunk_store.byte_size import human_size
from chunk_store.window_file import WindowDirectory
from erofs_fs.errors import CacheTooSmall
from launch.images.lazy_image import LazyImage
from rafs.windows import cut_windows


def require_room(image: LazyImage, directory: WindowDirectory, cache_size: int | None) -> None:
    """Return if the cache may hold *image*, and its disk has room for what of it is not in *directory*.

    *cache_size*: bytes that all windows may occupy; None: what there is.

    Raises:
        CacheTooSmall: it may not, or has not.
        OSError: the file system cannot be asked.
    """
    what = f"a kernel mount of {image.reference.familiar()} comes to hold"
    size = sum(record.uncompressed_size for record in image.bootstrap.blobs)
    if cache_size is not None and size > cache_size:
        raise CacheTooSmall(
            f"the cache may have {human_size(cache_size)}, and {what} {human_size(size)}; use the driver fuse"
        )
    free = shutil.disk_usage(directory.path.parent).free
    # Only then are the image's tables worth waiting for.
    if size > free and (missing := _missing(image, directory)) > free:
        raise CacheTooSmall(
            f"the cache's file system has {human_size(free)} left, and {what} {human_size(missing)} more; "
            "use the driver fuse"
        )


def _missing(image: LazyImage, directory: WindowDirectory) -> int:
    windows = {window.id: window.length for meta in image.blobs for window in cut_windows(meta)}
    return sum(max(0, length - max(0, directory.size(name))) for name, length in windows.items())
