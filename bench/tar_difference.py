"""The OCI layer that turns one root file system into another, both given as tar files.

Not a general layer tool: it knows what Debian's bootstrap tools write (no sparse files) and trusts its
input. The same two tar files give the same bytes. Serves the demo image.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path, PurePosixPath

WHITEOUT = ".wh."

# What makes two members the same; for regular files the content is compared as well.
Identity = tuple[bytes, int, int, int, int | float, int, str, int, int, tuple[tuple[str, str], ...], bytes]


def write_difference(lower: Path, upper: Path, layer: Path) -> None:
    """Write to *layer* what must be laid over *lower* to get *upper*.

    Members keep their order and attributes; directories on the way to a change are named as well, as
    docker does; what vanished becomes a whiteout.
    """
    with tarfile.open(lower) as below, tarfile.open(upper) as above:
        before = {_plain(member.name): _identity(below, member) for member in below}
        members = {_plain(member.name): member for member in above}
        changed = {name for name, member in members.items() if before.get(name) != _identity(above, member)}
        gone = _topmost(before.keys() - members.keys())
        named = changed | {str(parent) for name in changed | gone for parent in PurePosixPath(name).parents}
        with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as out:
            for name, member in members.items():
                if name in named:
                    out.addfile(member, above.extractfile(member) if member.isreg() else None)
            for name in sorted(gone):
                out.addfile(whiteout(name))


def clamp_times(source: Path, target: Path, *, latest: int) -> None:
    """Copy a tar file, giving members that are newer than *latest* (seconds since 1970) that time."""
    with tarfile.open(source) as tar, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as out:
        for member in tar:
            member.pax_headers = {key: value for key, value in member.pax_headers.items() if key != "mtime"}
            member.mtime = min(int(member.mtime), latest)
            out.addfile(member, tar.extractfile(member) if member.isreg() else None)


def whiteout(path: str) -> tarfile.TarInfo:
    """Return the member that hides *path* of the layers below."""
    place = PurePosixPath(path)
    member = tarfile.TarInfo(str(place.with_name(WHITEOUT + place.name)))
    member.mode = 0o644
    return member


def _plain(name: str) -> str:
    return str(PurePosixPath(name))


def _topmost(gone: set[str]) -> set[str]:
    return {name for name in gone if str(PurePosixPath(name).parent) not in gone}


def _identity(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Identity:
    content = b""
    if member.isreg() and (reader := tar.extractfile(member)) is not None:
        content = hashlib.sha256(reader.read()).digest()
    return (
        member.type,
        member.mode,
        member.uid,
        member.gid,
        member.mtime,
        member.size,
        member.linkname,
        member.devmajor,
        member.devminor,
        tuple(sorted(member.pax_headers.items())),
        content,
    )
