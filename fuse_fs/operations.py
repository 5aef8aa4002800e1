"""What an image answers to the kernel's requests: bytes in, bytes out.

Knows the protocol and the tree; not the device the messages come through, nor the threads that carry them.
A node's number in the protocol is its inode's number plus two, the root's is one: so a node is found without
any table of what the kernel has looked up, forgetting costs nothing, and a further mount hardly any memory.
Every reply lets the kernel keep what it says for ever, because an image never changes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from fuse_fs.errors import (
    MessageInvalid,
    NoSuchAttribute,
    NoSuchEntry,
    NotSupported,
    RoomTooSmall,
    TreeReadOnly,
)
from fuse_fs.protocol import (
    ATTR_OUT,
    CHANGES,
    DIRENT,
    DIRENT_PLUS,
    ENTRY_OUT,
    GETXATTR_IN,
    GETXATTR_OUT,
    INIT_IN,
    INIT_OUT,
    MAJOR,
    MINOR,
    OLDEST_MINOR,
    READ_IN,
    ROOT_NODE,
    STATFS_OUT,
    Feature,
    Request,
)
from fuse_fs.tree import BLOCK, ImageTree
from rafs.bootstrap import Inode, Nid
from rafs.directory import name_text

FOREVER = 10 * 365 * 86400  # seconds
# Of readahead; kernel default 12. The most it can be told: what is beyond waits there, also for what is here.
PARALLEL_READS = (1 << 16) - 1
MAX_PAGES = 256  # of one read; the kernel allows no more, unless its administrator does
LARGEST_LISTING = 1 << 20  # bytes of one reply to READDIR; the kernel asks for less

WANTED = (
    Feature.ASYNC_READ
    | Feature.EXPORT_SUPPORT
    | Feature.DO_READDIRPLUS
    | Feature.ASYNC_DIO
    | Feature.NO_OPEN_SUPPORT
    | Feature.PARALLEL_DIROPS
    | Feature.MAX_PAGES
    | Feature.CACHE_SYMLINKS
    | Feature.NO_OPENDIR_SUPPORT
    | Feature.PAGES_STAY_VALID
)
_NAME_PADDING = 8  # names in a listing are filled up to a multiple of this
_NODE_OFFSET = 2
_WORD32 = (1 << 32) - 1


class Operations:
    """The answers of one image. Thread-safe."""

    def __init__(self, tree: ImageTree) -> None:
        self._tree = tree
        # (node the kernel knows, inode number we have) differ for the root only.
        self._root = tree.root
        self._block = tree.block_size
        self._answers: dict[int, Callable[[int, memoryview], bytes]] = {
            Request.LOOKUP: self._lookup,
            Request.GETATTR: self._getattr,
            Request.READLINK: self._readlink,
            Request.READ: self._read,
            Request.STATFS: self._statfs,
            Request.GETXATTR: self._getxattr,
            Request.LISTXATTR: self._listxattr,
            Request.INIT: self._init,
            Request.READDIR: self._readdir,
            Request.READDIRPLUS: self._readdirplus,
        }
        for done in (Request.RELEASE, Request.RELEASEDIR, Request.FSYNC, Request.FSYNCDIR, Request.DESTROY):
            self._answers[done] = lambda _, __: b""

    def answer(self, request: int, node: int, body: memoryview) -> bytes:
        """The body of the reply; *body* is the request's, behind its header.

        Raises:
            fuse_fs.Refusal: the right answer is an errno.
            and what `ImageTree` raises.
        """
        answer = self._answers.get(request)
        if answer is None:
            if request in CHANGES:
                raise TreeReadOnly(f"request {request} would change the image")
            # The kernel then does OPEN, OPENDIR, FLUSH and ACCESS itself, and never asks for them again.
            raise NotSupported(f"request {request} is left to the kernel or not known")
        try:
            return answer(node, body)
        except struct.error as error:
            raise MessageInvalid(f"request {request} with {len(body)} bytes: {error}") from error

    def read(self, node: int, offset: int, size: int, until: float | None = None) -> bytes:
        """The body of the reply to a READ, as `ImageTree.read` gives it."""
        return self._tree.read(self._inode(node), offset, size, until)

    def read_into(self, into: memoryview, node: int, offset: int, *, from_disk: bool) -> int | None:
        """The body of the reply to a READ of what is here, as `ImageTree.read_into` gives it."""
        return self._tree.read_into(into, self._inode(node), offset, from_disk=from_disk)

    def is_local(self, node: int, offset: int, size: int) -> bool:
        """Whether a READ of these bytes would not have to wait."""
        return self._tree.is_local(self._inode(node), offset, size)

    def inode_number(self, node: int) -> Nid:
        """The number in the image of what the kernel calls *node*."""
        return self._root if node == ROOT_NODE else Nid(node - _NODE_OFFSET)

    def _inode(self, node: int) -> Inode:
        return self._tree.inode(self._root if node == ROOT_NODE else Nid(node - _NODE_OFFSET))

    def _init(self, _: int, body: memoryview) -> bytes:
        major, minor, readahead, offered = INIT_IN.unpack_from(body)
        if (major, minor) < (MAJOR, OLDEST_MINOR):
            raise NotSupported(f"the kernel speaks FUSE {major}.{minor}, older than {MAJOR}.{OLDEST_MINOR}")
        if major > MAJOR:
            offered = 0  # it asks again, with our major
        return INIT_OUT.pack(
            MAJOR,
            MINOR if major > MAJOR else min(minor, MINOR),
            readahead,
            offered & WANTED,
            PARALLEL_READS,
            PARALLEL_READS * 3 // 4,
            BLOCK,
            1,
            MAX_PAGES,
            0,
        )

    def _lookup(self, node: int, body: memoryview) -> bytes:
        name = _name(body)
        directory = self._inode(node)
        if name == b".":
            return ENTRY_OUT.pack(*self._entry(directory))
        try:
            found = self._tree.lookup(directory, name)
        except NoSuchEntry:
            return _ABSENT  # which the kernel remembers as well
        return ENTRY_OUT.pack(*self._entry(self._tree.inode(found)))

    def _getattr(self, node: int, _: memoryview) -> bytes:
        return ATTR_OUT.pack(FOREVER, 0, 0, *_attributes(self._inode(node)))

    def _readlink(self, node: int, _: memoryview) -> bytes:
        return self._tree.symlink_target(self._inode(node))

    def _read(self, node: int, body: memoryview) -> bytes:
        _, offset, size, _, _, _, _ = READ_IN.unpack_from(body)
        return self.read(node, offset, size)

    def _statfs(self, _: int, __: memoryview) -> bytes:
        space = self._tree.space()
        return STATFS_OUT.pack(space.blocks, 0, 0, space.inodes, 0, BLOCK, 255, BLOCK, 0)

    def _getxattr(self, node: int, body: memoryview) -> bytes:
        if not self._tree.has_xattrs:
            raise NotSupported("the image has no extended attributes")
        room, _ = GETXATTR_IN.unpack_from(body)
        name = _name(body[GETXATTR_IN.size :])
        value = self._tree.xattrs(self._inode(node)).get(name)
        if value is None:
            raise NoSuchAttribute(f"node {node} has no attribute {name_text(name)}")
        return _fitting(value, room)

    def _listxattr(self, node: int, body: memoryview) -> bytes:
        room, _ = GETXATTR_IN.unpack_from(body)
        return _fitting(b"".join(name + b"\0" for name in self._tree.xattrs(self._inode(node))), room)

    def _readdir(self, node: int, body: memoryview) -> bytes:
        _, offset, size, _, _, _, _ = READ_IN.unpack_from(body)
        listed = bytearray()
        for name, nid, bits, behind in self._tree.entries(self._inode(node), offset):
            record = DIRENT.pack(nid, behind, len(name), bits >> 12) + name
            record += bytes(-len(record) % _NAME_PADDING)
            if len(listed) + len(record) > min(size, LARGEST_LISTING):
                break
            listed += record
        return bytes(listed)

    def _readdirplus(self, node: int, body: memoryview) -> bytes:
        _, offset, size, _, _, _, _ = READ_IN.unpack_from(body)
        room = min(size, LARGEST_LISTING)
        listed: list[bytes] = []
        inode_of, pack = self._tree.inode, DIRENT_PLUS.pack
        for name, nid, bits, behind in self._tree.entries(self._inode(node), offset):
            length = len(name)
            room -= DIRENT_PLUS.size + length + -length % _NAME_PADDING
            if room < 0:
                break
            # The kernel does not take up nodes for "." and "..".
            entry = _NO_ENTRY if name in _DOTS else self._entry(inode_of(nid))
            listed.append(pack(*entry, nid, behind, length, bits >> 12))
            listed.append(name + bytes(-length % _NAME_PADDING))
        return b"".join(listed)

    def _entry(self, inode: Inode) -> tuple[int, ...]:
        node = ROOT_NODE if inode.nid == self._root else inode.nid + _NODE_OFFSET
        return (node, 0, FOREVER, FOREVER, 0, 0, *_attributes(inode))


def _attributes(inode: Inode) -> tuple[int, ...]:
    (nid, mode, uid, gid, size, mtime, mtime_ns, nlink, rdev, *_) = inode
    blocks = -(-size // BLOCK) * (BLOCK // 512)
    times = (mtime, mtime, mtime, mtime_ns, mtime_ns, mtime_ns)
    return (nid, size, blocks, *times, mode, nlink, uid, gid, rdev & _WORD32, BLOCK, 0)


_DOTS = frozenset({b".", b".."})
_NO_ENTRY = (0,) * 22
_ABSENT = ENTRY_OUT.pack(0, 0, FOREVER, 0, *(0,) * 18)


def _name(body: memoryview) -> bytes:
    """The name that *body* is, which ends with a NUL.

    Raises:
        MessageInvalid: it does not.
    """
    name, end, _ = bytes(body).partition(b"\0")
    if not end or not name:
        raise MessageInvalid(f"a name of {len(body)} bytes does not end, or is empty")
    return name


def _fitting(value: bytes, room: int) -> bytes:
    """As getxattr(2) answers: without room only the length."""
    if not room:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > room:
        raise RoomTooSmall(f"{len(value)} bytes do not fit into {room}")
    return value
