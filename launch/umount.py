"""Take a mount away: off the mount table, its server ended, its record removed.

Works on any mount of ours, also one whose record or server is gone. Undoes `server`; knows nothing of images.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from erofs_fs.mount import is_localised
from erofs_fs.mount_table import KERNEL_TYPE, MountEntry
from fuse_fs.mount_options import FUSE_TYPE
from launch import mounts
from launch.errors import MountImpossible, NotMounted, ServerFailed
from launch.mountpoint import detach, mount_at, real_path, where_shown
from launch.mounts import State

# A server that is not held by open files ends within a second or two (`ChunkStore.close`).
END_SECONDS = 15.0
# Else it may stay for as long as somebody keeps a file open, or shows it elsewhere: nothing to wait for.
SOON_SECONDS = 1.0


def unmount(path: Path, root: Path, *, lazy: bool = False) -> str | None:
    """Unmount what is mounted on *path*; None when it has ended, and its server with it.

    What does not end is said in words: what is mounted elsewhere as well is shown on there, and with *lazy*
    the place is free at once even if files are open there, which may then be served on.

    Raises:
        NotMounted: nothing of ours is mounted there.
        MountBusy: it is in use, and *lazy* was not asked for. Nothing has changed.
        MountImpossible: the system refused.
        ServerFailed: the mount is gone but its server does not end.
    """
    place = real_path(path)
    entry, record = mount_at(place), mounts.find(root, place)
    if entry is None or not _is_ours(entry, record, root):
        state = None if record is None else mounts.state_of(record)
        if record is not None and state is State.GONE:
            mounts.forget(root, record)
        hint = _elsewhere(entry) or mounts.mounted_above(root, place)
        if record is not None and state is State.DETACHED and (where := where_shown(record.device)):
            hint = f"; what was is mounted {where} now"
        elif entry is not None and state is State.MOUNTED:
            hint = f" on top: {entry.source} ({entry.fstype}) lies over it; unmount that first"
        raise NotMounted(f"unmounting {path}: nothing of nopull is mounted there{hint}")
    if record is not None and record.device != entry.device:
        record = None
    # A server that is gone has left nothing to keep consistent, so its mount can always go.
    dead = record is not None and mounts.state_of(record) is State.DEAD
    detach(place, lazy=lazy or dead)
    if record is None or mounts.await_mount_end(root, record, SOON_SECONDS):
        if record is not None:
            mounts.forget(root, record)
        return None
    where = where_shown(record.device)
    if where is not None:
        return f"it is still mounted {where}, and served until it is unmounted there, too"
    if lazy or not record.pids:
        return "what is open there is served until it is closed"
    if not mounts.await_mount_end(root, record, END_SECONDS):
        raise ServerFailed(
            f"unmounting {path}: done, but its server (process {record.server}) has not ended after "
            f"{END_SECONDS:.0f} s; see {record.log}"
        )
    mounts.forget(root, record)
    return None


def _is_ours(entry: MountEntry, record: mounts.MountRecord | None, root: Path) -> bool:
    if entry.fstype != KERNEL_TYPE:
        return entry.fstype == FUSE_TYPE
    # Others mount EROFS images too. Ours lie below the root, or are known by their device.
    known = record is not None and not record.pids and record.device == entry.device
    source = Path(entry.source)
    return known or source.is_relative_to(root) or source.is_relative_to(real_path(root))


def _elsewhere(entry: MountEntry | None) -> str:
    """What to try when *entry* is the mount of another root: its image lies in ROOT/IMAGES/DIGEST."""
    if entry is None or not is_localised(entry):
        return ""
    root = Path(entry.source).parent.parent.parent  # of a deep root the table does not show that path
    return f" from this root; try --root {root}" if mounts.find(root, entry.mountpoint) else ""


def clean(root: Path) -> list[tuple[mounts.MountRecord, State]]:
    """All records with their state; dead mounts are unmounted, and the records of what is gone removed."""
    found = [(record, mounts.state_of(record)) for record in mounts.records(root)]
    for record, state in found:
        if state is State.DEAD:
            # Gone meanwhile, or somebody else's to unmount: the record is of no use either way.
            with suppress(NotMounted, MountImpossible):
                detach(record.mountpoint, lazy=True)
        if state in (State.DEAD, State.GONE):
            mounts.forget(root, record)
    return found
