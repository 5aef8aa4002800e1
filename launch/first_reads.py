"""Which files of a mount were read first, in order, whatever driver shows it: for `explain --trace`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from erofs_fs.holds import hold_path, read_hold
from launch.control import ask
from launch.errors import NotMounted, ServerSilent
from launch.mounts import MountRecord


def first_reads(record: MountRecord, root: Path) -> dict[str, Any]:
    """`files`, each with path, seconds and size; `truncated`: later ones are left out; `partial`: so are
    those that were local already. Paths are text in which a byte that is not UTF-8 is a lone surrogate.

    Raises:
        ServerSilent: its server does not answer.
        NotMounted: it cannot be told.
    """
    if record.pids:
        return {**ask(record.control, {"ask": "trace"}), "partial": False}
    return {**_of_kernel(record, root), "partial": True}


def _of_kernel(record: MountRecord, root: Path) -> dict[str, Any]:
    from launch.images.image_request import from_json
    from launch.images.lazy_image import open_request
    from launch.kernel_mounts.window_reads import files_of, kept_reads
    from rafs.windows import cut_windows

    if record.store is None:
        raise NotMounted(f"cannot tell what was read first in {record.mountpoint}: its store is not known")
    hold = read_hold(hold_path(record.store, record.id))
    if hold is None:
        raise NotMounted(f"cannot tell what was read first in {record.mountpoint}: it is gone")
    if hold.request is None:
        raise NotMounted(
            f"cannot tell what was read first in {record.mountpoint}: all was local when it was mounted, and"
            " nobody is asked for what is"
        )
    said: dict[str, Any] = {}
    with suppress(ServerSilent):  # it has ended: all is local
        said = ask(record.control, {"ask": "trace", "mount": record.id})
    said = said or kept_reads(record.store, record.id)
    image = open_request(from_json(hold.request), root)
    try:
        windows = [cut_windows(meta) for meta in image.blobs]
    finally:
        image.close()
    files = [
        {"path": os.fsdecode(read.path), "seconds": read.seconds, "size": read.size}
        for read in files_of(said["reads"], image.bootstrap, windows)
    ]
    return {"files": files, "truncated": said["truncated"]}
