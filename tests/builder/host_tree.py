"""A directory of this host as a converted image would show it, to compare with what other tools unpack."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.builder.layouts import ShownFile


def host_tree(root: Path) -> dict[bytes, ShownFile]:
    """Every path below *root*, itself as `b"/"`."""
    base = os.fsencode(root)
    return {path[len(base) :] or b"/": _shown(path) for path in _paths(base)}


def differences(
    found: Mapping[bytes, ShownFile], wanted: Mapping[bytes, ShownFile], *, unpacked_at: int
) -> list[str]:
    """What differs, one line each. Directories' times from *unpacked_at* on are the unpacking tool's own."""
    lines = [f"only in the image: {path!r}" for path in sorted(found.keys() - wanted.keys())]
    lines += [f"missing in the image: {path!r}" for path in sorted(wanted.keys() - found.keys())]
    for path in sorted(found.keys() & wanted.keys()):
        here, there = found[path], wanted[path]
        attributes = ["mode", "uid", "gid", "nlink", "rdev", "target", "xattrs", "content"]
        if not (stat.S_ISDIR(there.mode) and there.mtime >= unpacked_at):
            attributes += ["mtime", "mtime_ns"]
        for name in attributes:
            if getattr(here, name) != getattr(there, name):
                shown = f"{getattr(here, name)!r:.60} instead of {getattr(there, name)!r:.60}"
                lines.append(f"{path!r}: {name} is {shown}")
    groups = [_groups(tree) for tree in (found, wanted)]
    if groups[0] != groups[1]:
        lines.append(f"hard links: {sorted(map(sorted, groups[0] ^ groups[1]))!r:.300}")
    return lines


def _groups(tree: Mapping[bytes, ShownFile]) -> set[frozenset[bytes]]:
    names: dict[int, set[bytes]] = {}
    for path, shown in tree.items():
        if not stat.S_ISDIR(shown.mode):
            names.setdefault(shown.nid, set()).add(path)
    return {frozenset(group) for group in names.values()}


def _paths(base: bytes) -> Iterator[bytes]:
    yield base
    for folder, folders, files in os.walk(base):
        yield from (folder + b"/" + name for name in folders + files)


def _shown(path: bytes) -> ShownFile:
    found = os.lstat(path)
    regular = stat.S_ISREG(found.st_mode)
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
    return ShownFile(
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        mtime=seconds,
        mtime_ns=nanoseconds,
        nlink=found.st_nlink,
        rdev=found.st_rdev if device else 0,
        target=os.readlink(path) if stat.S_ISLNK(found.st_mode) else b"",  # noqa: PTH115 - in bytes
        xattrs={
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        },
        content=Path(os.fsdecode(path)).read_bytes() if regular else b"",
        nid=found.st_ino,
    )
