"""The kernel's FUSE messages as bytes: numbers of requests, and the records in requests and replies.

Only what a read-only file system is asked and answers; `linux/fuse.h` is the authority. Pure: no descriptor,
no tree. Numbers are in the machine's byte order, as the device gives them.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

# Protocol version this speaks. The kernel adapts its records to the minor that is answered; 23 came with
# Linux 4.0 and is the first in which our reply to INIT has its present length.
MAJOR, MINOR, OLDEST_MINOR = 7, 31, 23

ROOT_NODE = 1


class Request(IntEnum):
    """What the kernel asks: `enum fuse_opcode`."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    TMPFILE = 51


# What changes the tree. The kernel refuses these itself on a mount that is read-only.
CHANGES = frozenset(
    {
        Request.SETATTR,
        Request.SYMLINK,
        Request.MKNOD,
        Request.MKDIR,
        Request.UNLINK,
        Request.RMDIR,
        Request.RENAME,
        Request.LINK,
        Request.WRITE,
        Request.SETXATTR,
        Request.REMOVEXATTR,
        Request.CREATE,
        Request.FALLOCATE,
        Request.RENAME2,
        Request.TMPFILE,
    }
)
# The kernel does not wait for a reply to these, and refuses one.
UNANSWERED = frozenset({Request.FORGET, Request.BATCH_FORGET, Request.NOTIFY_REPLY})


class Feature(IntFlag):
    """Bits of `flags` in INIT, offered by the kernel and taken up in the reply."""

    ASYNC_READ = 1 << 0  # several reads of one file at once
    EXPORT_SUPPORT = 1 << 4  # nodes are found again by number alone: "." and ".." can be looked up
    DO_READDIRPLUS = 1 << 13  # listings bring the attributes along
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17  # ENOSYS to OPEN: never asked again, pages stay cached over opens
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22  # reads of up to `max_pages`, instead of 32
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24  # ENOSYS to OPENDIR: never asked again, listings are cached
    PAGES_STAY_VALID = 1 << 25  # FUSE_EXPLICIT_INVAL_DATA: until we say otherwise


IN_HEADER = struct.Struct("=IIQQIIIHH")  # length, request, id, node, uid, gid, pid, extensions, padding
OUT_HEADER = struct.Struct("=IiQ")  # length, minus errno, id of the request

INIT_IN = struct.Struct("=IIII")  # major, minor, max_readahead in bytes, flags; longer since 7.36
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
# map_alignment, reserved
INIT_OUT = struct.Struct("=IIIIHHIIHH32x")
READ_IN = struct.Struct("=QQIIQII")  # handle, offset, size, flags, lock owner, open flags, padding
GETXATTR_IN = struct.Struct("=II")  # room, padding; a name follows in GETXATTR
GETXATTR_OUT = struct.Struct("=II")  # length, padding; when there was no room
STATFS_OUT = struct.Struct("=QQQQQIIII24x")  # blocks, free, available, inodes, free, block, name, fragment

_ENTRY = "QQQQII"  # node, generation, validity of the entry and of the attributes in s, and in ns
# inode, size, blocks, atime, mtime, ctime, their ns, mode, links, uid, gid, device, block size, flags
_ATTR = "QQQqqqIIIIIIIIII"
ENTRY_OUT = struct.Struct("=" + _ENTRY + _ATTR)
ATTR_OUT = struct.Struct("=QII" + _ATTR)  # validity in s, ns, padding
DIRENT = struct.Struct("=QQII")  # inode, offset of what follows, length of the name, type; then the name
DIRENT_PLUS = struct.Struct("=" + _ENTRY + _ATTR + "QQII")

assert (IN_HEADER.size, OUT_HEADER.size, INIT_OUT.size, READ_IN.size) == (40, 16, 64, 40)
assert (STATFS_OUT.size, ENTRY_OUT.size, ATTR_OUT.size) == (80, 128, 104)
assert (DIRENT.size, DIRENT_PLUS.size) == (24, 152)


def word_for(request: int) -> str:
    """What the kernel asks for, in a word for people."""
    try:
        return Request(request).name.lower()
    except ValueError:
        return f"request {request}"
