"""The bytes of an inode's extended attributes, which follow the inode itself.

EROFS's shared xattrs are not used: readers of RAFS refuse them.
"""

from __future__ import annotations

from collections.abc import Mapping

from .codes import XATTR_PREFIXES, XATTR_WHOLE_NAMES
from .records import XATTR_ENTRY, XATTR_HEADER, XattrEntry, XattrHeader
from .tree import PlanInvalid

# Bytes. The format would hold a suffix of 255, but Linux knows no longer whole name (XATTR_NAME_MAX):
# listxattr would show it and getxattr refuse it.
_MAX_NAME = 255
_MAX_VALUE = 65535  # bytes
_MAX_AREA = XATTR_HEADER.size + 4 * 65534  # bytes; the count of 4-byte steps in the inode has 16 bits


def can_hold(name: bytes) -> bool:
    """Whether the format has a place for an xattr of this full name."""
    return _split(name) is not None


def pack_xattrs(xattrs: Mapping[bytes, bytes] | None) -> bytes:
    """The area for *xattrs* (full names), sorted by name; empty if there are none.

    Raises:
        PlanInvalid: a name is in a namespace that the format lacks, or a name, a value or all are too long.
    """
    if not xattrs:
        return b""
    area = bytearray(XATTR_HEADER.pack(XattrHeader()))
    for name in sorted(xattrs):
        value = xattrs[name]
        parts = _split(name)
        if parts is None:
            raise PlanInvalid(
                f"xattr {name!r} is not storable: expected a POSIX ACL or user., trusted. or"
                f" security. and something behind it, at most {_MAX_NAME} bytes without NUL"
            )
        if len(value) > _MAX_VALUE:
            raise PlanInvalid(f"xattr {name!r} has {len(value)} bytes, the format has room for {_MAX_VALUE}")
        prefix, suffix = parts
        area += XATTR_ENTRY.pack(XattrEntry(len(suffix), prefix, len(value))) + suffix + value
        area += bytes(-len(area) % 4)
    if len(area) > _MAX_AREA:
        raise PlanInvalid(f"its xattrs take {len(area)} bytes, the format has room for {_MAX_AREA}")
    return bytes(area)


def xattr_icount(area: bytes) -> int:
    """What the inode says about an area of these bytes."""
    return (len(area) - XATTR_HEADER.size) // 4 + 1 if area else 0


def _split(name: bytes) -> tuple[int, bytes] | None:
    if b"\0" in name or len(name) > _MAX_NAME:
        return None
    for index, prefix in XATTR_PREFIXES.items():
        if index in XATTR_WHOLE_NAMES:
            if name == prefix:
                return index, b""
        elif name.startswith(prefix) and len(name) > len(prefix):
            return index, name[len(prefix) :]
    return None
