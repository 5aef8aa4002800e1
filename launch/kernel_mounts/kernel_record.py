"""Write down a mount of the kernel's own: who has it is the kernel, so its record names no process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from erofs_fs.mount import is_localised
from erofs_fs.mount_table import KERNEL_TYPE
from launch import mounts
from launch.errors import MountImpossible, NotMounted
from launch.kernel_mounts.filler_life import LOG_NAME, control_path
from launch.mountpoint import detach, mount_at
from launch.mounts import MountRecord
from launch.root import state_directory

DRIVER = "erofs"


def record_kernel_mount(
    root: Path,
    mount_id: str,
    mountpoint: Path,
    *,
    store: Path,
    reference: str,
    digest: str,
    reason: str,
    lazy: bool,
    background: bool,
    config: Path | None,
    image: Path | None,
    viewer: int | None,
    warnings: Sequence[str],
) -> MountRecord:
    """The record, written below the state root *root*, of what was just mounted on *mountpoint*; the other
    arguments are as in `MountRecord`, *reason* is its `driver_reason`.

    Raises:
        MountImpossible: it is no longer there, or something else lies over it.
    """
    entry = mount_at(mountpoint)
    if entry is None or entry.fstype != KERNEL_TYPE:
        raise MountImpossible(f"{mountpoint} was unmounted or mounted over before it was ready")
    record = MountRecord(
        id=mount_id,
        mountpoint=mountpoint,
        reference=reference,
        digest=digest,
        driver=DRIVER,
        driver_reason=reason,
        lazy=lazy,
        background=background,
        pids={},
        births={},
        started=time.time(),
        device=entry.device,
        control=control_path(store),
        log=state_directory(root, "log") / f"{LOG_NAME}.log",
        config=config,
        image=image,
        store=store,
        viewer=viewer,
        warnings=tuple(warnings),
    )
    mounts.write_record(root, record)
    return record


def withdraw(root: Path, mountpoint: Path, record: MountRecord | None = None) -> None:
    """Take what was mounted on *mountpoint* away again, in use or not, and its *record*; but nothing that
    somebody has mounted over it or in its place.
    """
    entry = mount_at(mountpoint)
    if entry is not None and is_localised(entry) and (record is None or record.device == entry.device):
        with suppress(NotMounted, MountImpossible):
            detach(mountpoint, lazy=True)
    if record is not None:
        mounts.forget(root, record)
