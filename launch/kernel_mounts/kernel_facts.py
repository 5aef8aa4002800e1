"""What is known of a kernel mount: how much of it is local, what that has cost, and who works for it.

Asked of the store's files, of the keeper and of the filler, each as far as it is there. Serves `ps` and
`explain`, which must start fast: it imports nothing that mounts or fetches.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from chunk_store.keeper_client import ask_keeper
from chunk_store.window_file import WindowDirectory
from erofs_fs.holds import hold_path, read_hold
from launch.control import ask
from launch.errors import ServerSilent
from launch.mounts import MountRecord
from rafs.errors import FormatInvalid
from rafs.localised import read_devices


class KernelFacts(NamedTuple):
    """Of one kernel mount; what is not known is None."""

    progress: dict[str, Any] | None  # by the names of `chunk_store.Progress`, at least windows and bytes
    pids: dict[str, int]  # by role
    keeper: dict[str, Any] | None  # its own counters, of all mounts of the store


def kernel_facts(record: MountRecord) -> KernelFacts:
    """What can be found out now."""
    share = local_share(record)
    if record.store is None:
        return KernelFacts(share, {}, None)
    question = {"ask": "status", "mount": record.id}
    cost: dict[str, Any] = {}
    # The filler first: when it ends it leaves with the keeper what it knows.
    with suppress(ServerSilent):
        cost = ask(record.control, question).get("progress") or {}
    answered = ask_keeper(record.store, question)
    if answered is None or not answered[0]["keeps"]:
        return KernelFacts({**cost, **(share or {})} or None, {}, None)
    status = answered[0]
    pids = {"keeper": int(status["pid"])}
    if status["filler"] is not None:
        pids["filler"] = int(status["filler"])
    return KernelFacts({**(status["facts"] or {}), **cost, **(share or {})} or None, pids, status)


def local_share(record: MountRecord) -> dict[str, Any] | None:
    """Windows and bytes that are local; None if that cannot be told."""
    if record.store is None:
        return None
    hold = read_hold(hold_path(record.store, record.id))
    if hold is None:
        return None
    try:
        devices = read_devices(hold.image.read_bytes())
    except (OSError, FormatInvalid):
        return None  # its name leads elsewhere by now; the mount itself goes on
    directory = WindowDirectory(record.store)
    present = [device for device in devices if directory.size(device.id) == device.length]
    return {
        "windows_total": len(devices),
        "windows_present": len(present),
        "bytes_total": sum(device.length for device in devices),
        "bytes_present": sum(device.length for device in present),
        "complete": len(present) == len(devices),
    }
