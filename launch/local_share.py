"""How much of a kernel mount is local: asked of its image and of the store, because nobody serves it.

Serves `ps` and `explain`, which must start fast: it imports nothing that mounts or fetches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chunk_store.window_file import WindowDirectory
from launch.mountpoint import mount_table
from launch.mounts import MountRecord
from rafs.errors import FormatInvalid
from rafs.localised import read_devices


def local_share(record: MountRecord, root: Path) -> dict[str, Any] | None:
    """Windows and bytes by the names of `chunk_store.Progress`; None if that cannot be told.

    Less than all is possible although such a mount begins with all: windows can be damaged or taken away.
    """
    wanted = (record.mountpoint, record.device)
    entries = [entry for entry in mount_table() if (entry.mountpoint, entry.device) == wanted]
    if not entries:
        return None
    try:
        devices = read_devices(Path(entries[-1].source).read_bytes())
    except (OSError, FormatInvalid):
        return None  # its name leads elsewhere by now; the mount itself goes on
    directory = WindowDirectory(record.store or root)
    present = [device for device in devices if directory.size(device.id) == device.length]
    return {
        "windows_total": len(devices),
        "windows_present": len(present),
        "bytes_total": sum(device.length for device in devices),
        "bytes_present": sum(device.length for device in present),
        "complete": len(present) == len(devices),
    }
