"""Leave control groups that could stop this process while readers wait for it: such as have a limit of
memory, or can be frozen. A keeper is often started from a shell or a service that has such bounds, and
outlives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from erofs_fs.mount_table import OWN_TABLE, mount_table

OWN: Final = Path("/proc/self/cgroup")
_UNLIMITED_V1: Final = 1 << 62  # bytes: what the kernel shows for "no limit" is a little above


def leave_bounds(own: Path = OWN, table: Path = OWN_TABLE) -> list[str]:
    """Move this process up in each hierarchy until nothing bounds it; what was left, for people. What may not
    be done is not.
    """
    left = []
    for controllers, top, place in _hierarchies(own, table):
        for target in _better_places(controllers, top, place):
            with suppress(OSError):
                (target / "cgroup.procs").write_text("0", encoding="ascii")
                left.append(str(place))
                break
    return left


def _hierarchies(own: Path, table: Path) -> Iterator[tuple[frozenset[str], Path, Path]]:
    """(controllers, none of v2; the top; our place) of each hierarchy that is mounted whole."""
    tops: dict[frozenset[str], Path] = {}
    for entry in mount_table(table):
        if entry.fstype in ("cgroup", "cgroup2") and entry.root == "/":
            v1 = entry.fstype == "cgroup"
            names = frozenset(entry.options.split(",")) - {"rw", "ro"} if v1 else frozenset()
            tops[names] = entry.mountpoint
    for line in own.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        names = frozenset(filter(None, controllers.split(",")))
        if names in tops:
            yield names, tops[names], tops[names] / path.lstrip("/")


def _better_places(controllers: frozenset[str], top: Path, place: Path) -> Iterator[Path]:
    """Where nothing bounds us, the best first: the top where groups can be frozen; else, or where that takes
    nobody, the nearest group from *place* up on which, and above which, there is no limit of memory.
    """
    if place != top and ("freezer" in controllers or (place / "cgroup.freeze").exists()):
        yield top
    found = place
    for group in (place, *place.parents):
        if group == top:
            break
        if _has_limit(group):
            found = group.parent
    if found != place:
        yield found


def _has_limit(group: Path) -> bool:
    with suppress(OSError, ValueError):
        return int((group / "memory.limit_in_bytes").read_text(encoding="ascii")) < _UNLIMITED_V1
    with suppress(OSError):
        return (group / "memory.max").read_text(encoding="ascii").strip() != "max"
    return False
