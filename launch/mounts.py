"""What is mounted from a state root: one record per mount, and what the record is worth now.

A record is a hint, not the truth: servers die, mounts are taken away by other means, machines restart. So its
state is asked of the kernel each time. Servers write and remove their own; whoever finds that a server is
gone may remove its record.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from erofs_fs.holds import forget_hold, hold_path, lives, remove_remains
from erofs_fs.mount_table import KERNEL_TYPE, MountEntry
from erofs_fs.pids import await_end, birth_of
from fuse_fs.mount_options import FUSE_TYPE
from launch.log_lines import drop_if_empty
from launch.mountpoint import is_dead, mounts_seen_by, real_path
from launch.root import state_directory
from launch.whole_file import read_json_object, write_whole

SERVER = "server"  # role of the process that answers the kernel


class State(enum.Enum):
    """How a record relates to the kernel's mount table and to its server."""

    MOUNTED = "mounted"
    DETACHED = "detached"  # unmounted there, but files are open, or it is shown elsewhere and still served
    DEAD = "dead"  # still in the mount table, but nobody answers: ENOTCONN
    GONE = "gone"  # neither


@dataclass(frozen=True, slots=True)
class MountRecord:
    """One mount, as its server wrote it down when it was ready."""

    id: str
    mountpoint: Path  # absolute, without links
    reference: str  # as people write it, without digest
    digest: str  # what the reference named when it was mounted
    driver: str
    pids: Mapping[str, int]  # process id by role; empty for a mount of the kernel's own
    births: Mapping[str, int]  # start of those processes in clock ticks since boot: pids are used again
    started: float  # seconds since 1970
    device: str  # "major:minor" of the mount
    control: Path  # socket, see `control`
    log: Path
    config: Path | None = None  # the image's config document; None for a bare bootstrap
    image: Path | None = None  # directory of the image's cached documents
    store: Path | None = None  # the root of the store its windows lie in; None: the state root
    driver_reason: str = ""  # why it is that driver
    lazy: bool = True  # whether it was mounted before its data was here
    viewer: int | None = None  # a process that sees the mountpoint, if not everybody does
    background: bool = True  # whether what nobody reads is fetched, too
    metrics: str | None = None  # "host:port" where its metrics are, if anywhere
    warnings: tuple[str, ...] = field(default=())
    shared: bool = False  # whether its server may have other mounts as well

    @property
    def server(self) -> int:
        """Process id of the server; only where there is one."""
        return self.pids[SERVER]

    @property
    def pinned(self) -> str:
        """The reference with the digest it was pinned to."""
        return f"{self.reference}@{self.digest}" if self.digest else self.reference

    def to_json(self) -> dict[str, Any]:
        """For scripts and for the file."""
        named = asdict(self).items()
        return {name: str(value) if isinstance(value, Path) else value for name, value in named}


def from_json(document: Mapping[str, Any]) -> MountRecord:
    """The record in *document*.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    config, image, store = document.get("config"), document.get("image"), document.get("store")
    return MountRecord(
        id=str(document["id"]),
        mountpoint=Path(document["mountpoint"]),
        reference=str(document["reference"]),
        digest=str(document["digest"]),
        driver=str(document["driver"]),
        pids={str(role): int(pid) for role, pid in document["pids"].items()},
        births={str(role): int(birth) for role, birth in document["births"].items()},
        started=float(document["started"]),
        device=str(document["device"]),
        control=Path(document["control"]),
        log=Path(document["log"]),
        config=None if config is None else Path(config),
        image=None if image is None else Path(image),
        store=None if store is None else Path(store),
        driver_reason=str(document.get("driver_reason", "")),
        lazy=bool(document.get("lazy", True)),
        viewer=document.get("viewer"),
        background=bool(document.get("background", True)),
        metrics=document.get("metrics"),
        warnings=tuple(str(warning) for warning in document.get("warnings", ())),
        shared=bool(document.get("shared", False)),
    )


def new_id() -> str:
    """A name for a mount, unique among those of one root."""
    return os.urandom(4).hex()


def record_path(root: Path, mount_id: str) -> Path:
    """Where the record of that mount lies."""
    return root / "mounts" / f"{mount_id}.json"


def write_record(root: Path, record: MountRecord) -> None:
    """Make the mount known."""
    import json

    state_directory(root, "mounts")
    write_whole(record_path(root, record.id), json.dumps(record.to_json(), indent=1).encode())


def forget(root: Path, record: MountRecord) -> None:
    """Remove a record and what else is left of a mount that is gone; no error if that was done before."""
    remove_remains(record_path(root, record.id))
    if record.pids:
        remove_remains(record.control)
        if not server_lives(record):
            drop_if_empty(record.log)
    # Else the keeper knows when it goes, if there is one.
    elif record.store is not None and not lives(hold_path(record.store, record.id)):
        forget_hold(record.store, record.id)


def records(root: Path) -> list[MountRecord]:
    """All records below *root*, oldest first; a broken file is none.

    Raises:
        PermissionError: they are another user's.
    """
    found = []
    try:
        paths = list((root / "mounts").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    for path in paths:
        document = read_json_object(path) if path.suffix == ".json" else None
        if document is not None:
            with suppress(KeyError, TypeError, ValueError, AttributeError):
                found.append(from_json(document))
    return sorted(found, key=lambda record: record.started)


def find(root: Path, mountpoint: Path) -> MountRecord | None:
    """The record of what is, or last was, mounted on *mountpoint*; one in the mount table comes first."""
    place = real_path(mountpoint)
    there = [record for record in records(root) if record.mountpoint == place]
    there.sort(key=lambda record: (state_of(record) in (State.MOUNTED, State.DEAD), record.started))
    return there[-1] if there else None


def mounted_above(root: Path, path: Path) -> str:
    """Which mount *path* lies inside of, as the rest of a sentence that denies one on it; empty if none."""
    place = real_path(path)
    above = [record for record in records(root) if record.mountpoint in place.parents]
    living = [record.mountpoint for record in above if state_of(record) in (State.MOUNTED, State.DEAD)]
    return f", but above it, on {max(living, key=lambda one: len(one.parts))}" if living else ""


def state_of(record: MountRecord) -> State:
    """What *record* is worth now."""
    if not record.pids:
        if _is_mounted(record, mounts_seen_by(record.viewer)):
            return State.MOUNTED
        held = record.store is not None and lives(hold_path(record.store, record.id))
        return State.DETACHED if held else State.GONE
    if server_lives(record):
        # Its own view: the mounts of a running container are in a mount namespace that we may not be in.
        return State.MOUNTED if _is_mounted(record, mounts_seen_by(record.server)) else State.DETACHED
    # Device numbers are used again: a living mount there is a later one, which is not this record's.
    if _is_mounted(record, mounts_seen_by(None)) and is_dead(record.mountpoint):
        return State.DEAD
    return State.GONE


def _is_mounted(record: MountRecord, table: list[MountEntry]) -> bool:
    wanted = (record.mountpoint, record.device, FUSE_TYPE if record.pids else KERNEL_TYPE)
    return any((entry.mountpoint, entry.device, entry.fstype) == wanted for entry in table)


def server_lives(record: MountRecord) -> bool:
    """Whether the server runs: that very process, not another with its number, and not a zombie."""
    pid = record.pids.get(SERVER)
    return pid is not None and birth_of(pid) == record.births.get(SERVER) and not await_end(pid, 0)


def await_mount_end(root: Path, record: MountRecord, seconds: float) -> bool:
    """Whether nothing shows the mount any more within *seconds*, and its server is done with it: has ended,
    or, where it is shared, has removed the record.
    """
    if record.pids and not record.shared:
        return not server_lives(record) or await_end(record.server, seconds)
    deadline = time.monotonic() + seconds
    while _goes_on(root, record):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _goes_on(root: Path, record: MountRecord) -> bool:
    if not record.pids:
        return state_of(record) is not State.GONE
    return record_path(root, record.id).exists() and server_lives(record)
