"""The xattr area of one inode, read."""

from __future__ import annotations

from .codes import XATTR_PREFIXES, XATTR_WHOLE_NAMES
from .errors import FormatInvalid
from .inode import Inode
from .records import XATTR_ENTRY, XATTR_HEADER

_SHARED_COUNT = 4  # byte of the header


def read_xattrs(raw: bytes, inode: Inode) -> dict[bytes, bytes]:
    """The extended attributes of *inode* by full name ("user.x"), in stored order.

    Raises:
        FormatInvalid: the area is out of bounds, or an entry in it is broken or there twice.
    """
    found: dict[bytes, bytes] = {}
    if not inode.xattr_size:
        return found
    where = f"inode {inode.nid}"
    position, end = inode.xattr_offset, inode.xattr_offset + inode.xattr_size
    if end > len(raw):
        raise FormatInvalid(f"{where}: xattrs end at {end:#x}, the bootstrap at {len(raw):#x}")
    if raw[position + _SHARED_COUNT]:
        raise FormatInvalid(f"{where}: has shared xattrs, RAFS has none")
    position += XATTR_HEADER.size
    while position < end:
        length, prefix, value_size = XATTR_ENTRY.unpack(raw, position)
        position += XATTR_ENTRY.size
        if prefix not in XATTR_PREFIXES or (prefix in XATTR_WHOLE_NAMES) != (length == 0):
            raise FormatInvalid(f"{where}: xattr prefix {prefix} with {length} more bytes is no name")
        name_end = position + length
        if name_end + value_size > end:
            raise FormatInvalid(f"{where}: an xattr of {length} + {value_size} bytes leaves its area")
        name = XATTR_PREFIXES[prefix] + raw[position:name_end]
        if b"\0" in name:
            raise FormatInvalid(f"{where}: xattr {name!r} has a NUL, where others see its end")
        if name in found:
            raise FormatInvalid(f"{where}: xattr {name!r} is there twice")
        found[name] = raw[name_end : name_end + value_size]
        position = name_end + value_size
        position += -position % 4
    return found
