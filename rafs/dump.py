"""The text form of a tree: one line per name, for people, `diff` and tests; docs/dump.md has the fields.

Two images that show the same files have the same lines, whatever blobs, chunk indices and inode numbers they
use, as long as they cut files into the same chunks.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from typing import Final

from blake3 import blake3

from .bootstrap import Bootstrap
from .codes import Digester
from .errors import FormatInvalid
from .inode import Inode
from .records import CHUNK_ENTRY
from .tree import split_device_number

FIELDS: Final = (
    "path",
    "type",
    "mode",
    "uid",
    "gid",
    "size",
    "mtime",
    "nlink",
    "rdev",
    "target",
    "xattrs",
    "content",
)

_ABSENT: Final = "-"
_LETTERS: Final = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
_HARD_LINK: Final = "h"
_PLAIN: Final = frozenset(range(0x21, 0x7F)) - frozenset(b"%=,")


def dump_lines(bootstrap: Bootstrap) -> Iterator[str]:
    """Yield one line, without line end, per name of the tree: depth first, each directory in byte order.

    Raises:
        FormatInvalid: the tree cannot be read to its end.
    """
    digests = {(row.blob_index, row.chunk_index): row.digest for row in bootstrap.chunk_rows()}
    first_names: dict[int, tuple[bytes, str]] = {}  # with the content field
    # Files do not share chunk entries; a crafted bootstrap whose inodes do would cost quadratic time.
    budget = bootstrap.size // CHUNK_ENTRY.size
    for path, inode in bootstrap.walk():
        letter = _LETTERS.get(stat.S_IFMT(inode.mode), "?")
        target = bootstrap.symlink_target(inode) if letter == "l" else b""
        if inode.nid in first_names:
            letter = _HARD_LINK
            target, content = first_names[inode.nid]
        else:
            budget -= -(-inode.size // bootstrap.chunk_size) if letter == "f" else 0
            if budget < 0:
                raise FormatInvalid(f"{path!r}: files have more chunks than the bootstrap has bytes for")
            content = _content(bootstrap, inode, digests)
            if letter != "d" and inode.nlink > 1:
                first_names[inode.nid] = path, content
        yield " ".join(
            (
                escape(path),
                letter,
                f"{stat.S_IMODE(inode.mode):04o}",
                str(inode.uid),
                str(inode.gid),
                _ABSENT if letter == "d" else str(inode.size),
                f"{inode.mtime}.{inode.mtime_ns:09}",
                str(inode.nlink),
                _device(inode),
                escape(target) or _ABSENT,
                _xattrs(bootstrap, inode),
                content,
            )
        )


def escape(raw: bytes) -> str:
    """*raw* as one field: all but printable ASCII, and "%", "=", ",", as %XX; so is a lone "-"."""
    if raw == b"-":
        return "%2D"
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)


def _device(inode: Inode) -> str:
    if not (stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)):
        return _ABSENT
    major, minor = split_device_number(inode.rdev)
    return f"{major}:{minor}"


def _xattrs(bootstrap: Bootstrap, inode: Inode) -> str:
    found = sorted(bootstrap.xattrs(inode).items())
    return ",".join(f"{escape(name)}={escape(value)}" for name, value in found) or _ABSENT


def _content(bootstrap: Bootstrap, inode: Inode, digests: Mapping[tuple[int, int], bytes]) -> str:
    if not stat.S_ISREG(inode.mode) or not inode.size:
        return _ABSENT
    hasher = blake3()
    for extent in bootstrap.extents(inode):
        digest = digests.get((extent.blob_index, extent.chunk_index))
        if digest is None or not any(digest):
            return _ABSENT
        if bootstrap.blobs[extent.blob_index].digester is not Digester.BLAKE3:
            digest = b"sha256" + digest
        hasher.update(digest + extent.size.to_bytes(4, "little"))
    return hasher.hexdigest()
