"""One inode and one extent as values, and the reading of an inode from the bytes of a bootstrap.

Not what an inode points to: directories, symlink targets and chunks are read by `bootstrap`.
"""

from __future__ import annotations

import stat
from typing import NamedTuple, NewType

from .blob_record import BlobIndex
from .codes import FORMAT_EXTENDED, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN, NID_UNIT
from .errors import FormatInvalid
from .records import INODE_COMPACT, INODE_EXTENDED, XATTR_HEADER, Superblock

Nid = NewType("Nid", int)

_FORMATS = frozenset(
    layout << 1 | form
    for layout in (LAYOUT_PLAIN, LAYOUT_INLINE, LAYOUT_CHUNKS)
    for form in (0, FORMAT_EXTENDED)
)


class Inode(NamedTuple):
    """Attributes of one inode.

    A tuple, not a dataclass: a FUSE server makes one per call, and this is five times faster.
    """

    nid: Nid
    mode: int  # st_mode
    uid: int
    gid: int
    size: int  # bytes
    mtime: int  # s, signed
    mtime_ns: int
    nlink: int
    rdev: int  # as in st_rdev; 0 if not a device
    layout: int  # codes.LAYOUT_*
    ino: int  # serial number; what stat shows is the nid
    i_u: int  # block number or chunk format
    xattr_offset: int  # bytes, in the bootstrap; right after the inode
    xattr_size: int  # bytes; 0: none
    extended: bool


class Extent(NamedTuple):
    """One chunk of a file. Offsets and sizes in bytes."""

    file_offset: int
    blob_index: BlobIndex
    chunk_index: int
    blob_offset: int  # in the blob's uncompressed address space
    size: int  # shorter than the chunk only at the end of the file


def read_inode(raw: bytes, meta_offset: int, nid: int, superblock: Superblock) -> Inode:
    """The inode with number *nid*; *superblock* holds the time of compact ones.

    Raises:
        FormatInvalid: it lies outside *raw*, or is of no form that RAFS uses.
    """
    start = meta_offset + nid * NID_UNIT
    if nid < 0 or start + 2 > len(raw):
        raise FormatInvalid(f"inode {nid}: lies outside the bootstrap of {len(raw)} bytes")
    i_format = raw[start] | raw[start + 1] << 8
    if i_format not in _FORMATS:
        raise FormatInvalid(f"inode {nid}: format {i_format:#x} is none that RAFS uses")
    extended = bool(i_format & FORMAT_EXTENDED)
    body = start + (INODE_EXTENDED.size if extended else INODE_COMPACT.size)
    if body > len(raw):
        raise FormatInvalid(f"inode {nid}: ends at {body:#x}, the bootstrap at {len(raw):#x}")
    if extended:
        (_, icount, mode, _, size, i_u, ino, uid, gid, mtime, mtime_ns, nlink, _) = (
            INODE_EXTENDED.struct.unpack_from(raw, start)
        )
    else:
        _, icount, mode, nlink, size, later, i_u, ino, uid, gid, _ = INODE_COMPACT.struct.unpack_from(
            raw, start
        )
        mtime, mtime_ns = superblock.build_time + later, superblock.build_time_nsec
        if mtime >= 1 << 63:
            mtime -= 1 << 64  # as the kernel does
    if size >> 63:
        raise FormatInvalid(f"inode {nid}: size {size} is beyond any file")
    return Inode(
        Nid(nid),
        mode,
        uid,
        gid,
        size,
        mtime,
        mtime_ns,
        nlink,
        i_u if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        i_format >> 1,
        ino,
        i_u,
        body,
        xattr_bytes(icount) if icount else 0,
        extended,
    )


def xattr_bytes(icount: int) -> int:
    """How many bytes of xattrs follow an inode that says *icount*, which is at least 1; 0 means none."""
    return XATTR_HEADER.size + 4 * (icount - 1)
