"""What is mounted where, as the kernel's mount table says: /proc/PID/mountinfo. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

OWN_TABLE: Final = Path("/proc/self/mountinfo")
OVERLAY_TYPE: Final = "overlay"
KERNEL_TYPE: Final = "erofs"  # file system type of what `mount` mounts; also of others' images

# One option with all layers, or one for each; commas, colons and backslashes of paths are escaped.
_LOWERS = re.compile(r"(?:^|,)lowerdir\+?=((?:[^,\\]|\\.)*)", re.DOTALL)
_LAYER = re.compile(r"(?:[^:\\]|\\.)+", re.DOTALL)
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """One line of the mount table."""

    mountpoint: Path  # absolute, without links
    root: str  # the directory of the file system that is mounted, most often "/"
    device: str  # "major:minor"
    fstype: str  # with a subtype where there is one, as in "fuse.nopull"
    source: str
    options: str  # of the file system, not of this mount of it; with commas between them


def mount_table(path: Path = OWN_TABLE) -> list[MountEntry]:
    """All mounts that *path* lists, in the order in which they were made.

    Raises:
        OSError: it cannot be read; the process may be gone.
    """
    # Not splitlines: a path may hold what else that takes for the end of a line.
    return [_entry(line) for line in path.read_bytes().split(b"\n") if line]


def overlay_lowers(entry: MountEntry) -> list[str]:
    """The directories that an overlay was made of, as they were called then by who made it."""
    layers = [layer for option in _LOWERS.findall(entry.options) for layer in _LAYER.findall(option)]
    return [re.sub(r"\\(.)", r"\1", layer, flags=re.DOTALL) for layer in layers]


def _entry(line: bytes) -> MountEntry:
    place, _, mounted = line.partition(b" - ")
    _, _, device, root, mountpoint = (_plain(word) for word in place.split(b" ")[:5])
    fstype, source, options = (_plain(word) for word in mounted.split(b" ")[:3])
    return MountEntry(Path(mountpoint), root, device, fstype, source, options)


def _plain(word: bytes) -> str:
    """The table has blank, tab, newline and backslash as three octal digits."""
    return os.fsdecode(_ESCAPED.sub(lambda digits: bytes([int(digits[1], 8)]), word))
