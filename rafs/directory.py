"""One block of a directory: how many entries it has and what each is called, for people, too.

The search over blocks is `bootstrap`'s. Positions are counted from 0, offsets are bytes in the bootstrap.
"""

from __future__ import annotations

import struct

from rafs.counted import counted

from .codes import MAX_NAME
from .errors import FormatInvalid
from .records import DIRENT

_WIDTH = DIRENT.size
_NAME_OFFSET = 8  # of the name's place in an entry
_ENDS = struct.Struct(f"<H{_WIDTH - 2}xH")  # where a name begins, and the one behind it


def entry_count(raw: bytes, start: int, end: int, nid: int) -> int:
    """The number of entries, at least 1, in the directory block raw[start:end] of inode *nid*.

    Raises:
        FormatInvalid: the block cannot hold what it says.
    """
    if end - start < DIRENT.size:
        raise FormatInvalid(
            f"directory inode {nid}: a block of {counted(end - start, 'byte')} holds no entry"
        )
    offset = raw[start + _NAME_OFFSET] | raw[start + _NAME_OFFSET + 1] << 8
    if offset < DIRENT.size or offset % DIRENT.size or start + offset > end:
        raise FormatInvalid(f"directory inode {nid}: names start at {offset} of {end - start} bytes")
    return offset // DIRENT.size


def entry_name(raw: bytes, start: int, end: int, nid: int, position: int, count: int) -> bytes:
    """The name of entry *position* of *count* in the directory block raw[start:end] of inode *nid*.

    Raises:
        FormatInvalid: the name is misplaced, has no byte or more than 255, or holds a slash or a NUL.
    """
    at = start + position * DIRENT.size + _NAME_OFFSET
    name_start = start + (raw[at] | raw[at + 1] << 8)
    if position + 1 < count:
        at += DIRENT.size
        name_end = start + (raw[at] | raw[at + 1] << 8)
        if name_end > end:
            raise FormatInvalid(f"directory inode {nid}: name {position} ends outside its block")
    else:
        # Only the last name may be followed by padding, which starts with a NUL.
        name_end = raw.find(b"\0", name_start, end)
        if name_end < 0:
            name_end = end
    name = raw[name_start:name_end]
    if not 0 < len(name) <= MAX_NAME or name_start < start + count * DIRENT.size:
        raise FormatInvalid(f"directory inode {nid}: name {position} is empty, too long or misplaced")
    if b"/" in name or b"\0" in name:
        raise FormatInvalid(f"directory inode {nid}: name {name!r} has a slash or a NUL")
    return name


def find_entry(raw: bytes, start: int, end: int, nid: int, name: bytes) -> int | None:
    """Where the entry called *name* lies in *raw*, by binary search in the directory block raw[start:end] of
    inode *nid*; None if there is none.

    Raises:
        FormatInvalid: the block cannot hold what it says, or that very name is wrong.
    """
    count = entry_count(raw, start, end, nid)
    low, high = 0, count - 1
    while low <= high:
        middle = (low + high) // 2
        at = start + middle * _WIDTH
        if middle + 1 < count:
            # Looked at without being checked: a FUSE server does this some ten times a call.
            begin, stop = _ENDS.unpack_from(raw, at + _NAME_OFFSET)
            here = raw[start + begin : start + stop]
        else:
            here = entry_name(raw, start, end, nid, middle, count)
        if here < name:
            low = middle + 1
        elif here != name:
            high = middle - 1
        else:
            entry_name(raw, start, end, nid, middle, count)
            return at
    return None


def name_text(raw: bytes) -> str:
    """A name or path of an image for people: what is not UTF-8 becomes an escape."""
    return raw.decode("utf-8", "backslashreplace")
