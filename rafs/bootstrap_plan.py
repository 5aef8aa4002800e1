"""Where every inode of a bootstrap will lie, decided before a byte is written.

The plan is relative to the start of the inode area (`nid` 0), so it does not depend on how long the tables
before it become. Which blobs the files use is not its business (`chunk_tables`), nor is packing bytes.

Inodes are in breadth-first order, the children of one directory together and sorted by name, so listing a
directory with attributes reads neighbouring blocks. Whole blocks of long directories and symlinks follow
behind the last inode, in the same order.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass

from rafs.counted import counted

from .codes import BLOCK, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN, MAX_NAME, NID_UNIT, TYPE_OF_MODE
from .directory_writer import directory_size
from .records import CHUNK_ENTRY, INODE_EXTENDED
from .tree import Node, PlanInvalid
from .xattr_area import pack_xattrs

# One block stays unused before the root, so that no inode has nid 0.
ROOT_NID = BLOCK // NID_UNIT

# Bytes. Readers take one more (`codes.MAX_SYMLINK`), but PATH_MAX counts a NUL: nobody can follow that one.
LONGEST_FOLLOWED = 4095


@dataclass(slots=True, eq=False)
class PlannedInode:
    """One inode and its place. Positions in bytes from the start of the inode area."""

    node: Node
    parent: PlannedInode | None  # that of its first name; None: the root
    name: bytes  # the first of its names
    nlink: int = 1
    names: Sequence[bytes] = ()  # of a directory: sorted, with "." and ".."
    inodes: Sequence[PlannedInode] = ()  # parallel to names
    xattrs: bytes = b""
    size: int = 0  # of the file, the target or the directory stream
    layout: int = LAYOUT_PLAIN
    position: int = 0
    end: int = 0  # behind inline tail or chunk entries
    full_blocks: int = 0  # how many blocks of its content lie behind the inodes
    first_block: int = 0  # the first of them, counted from the start of the inode area

    @property
    def nid(self) -> int:
        return self.position // NID_UNIT

    @property
    def file_type(self) -> int:
        return TYPE_OF_MODE[self.node.mode >> 12]

    @property
    def tail_position(self) -> int:
        """Where inline content or the chunk entries begin; the latter are aligned to 8."""
        head = INODE_EXTENDED.size + len(self.xattrs)
        return self.position + head + (-head % CHUNK_ENTRY.size if self.node.chunks else 0)

    @property
    def path(self) -> bytes:
        names = []
        inode = self
        while inode.parent is not None:
            names.append(inode.name)
            inode = inode.parent
        return b"/" + b"/".join(reversed(names))


@dataclass(frozen=True, slots=True)
class Plan:
    inodes: list[PlannedInode]  # the root first; serial numbers are positions here, from 1
    by_node: dict[Node, PlannedInode]
    name_count: int  # inodes, hard links counted once per name
    inodes_end: int  # position behind the last inode
    end: int  # multiple of 4096

    def close(self) -> None:
        """Give the memory back at once: directories and what is in them name each other."""
        for inode in self.inodes:
            inode.inodes = ()
        self.inodes.clear()
        self.by_node.clear()

    @property
    def has_xattrs(self) -> bool:
        return any(inode.xattrs for inode in self.inodes)


def plan_inodes(root: Node, chunk_size: int) -> Plan:
    """The plan for the tree at *root*, whose files are cut every *chunk_size* bytes.

    Raises:
        PlanInvalid: a node breaks a rule of the format; the message names its path.
    """
    if not root.is_directory:
        raise PlanInvalid(f"the root has mode {root.mode:#o}, expected a directory")
    inodes, by_node, name_count = _collect(root)
    position = ROOT_NID * NID_UNIT
    for inode in inodes:
        try:
            _check_fields(inode.node)
            inode.xattrs = pack_xattrs(inode.node.xattrs)
            _measure(inode, chunk_size)
        except PlanInvalid as error:
            raise PlanInvalid(f"{inode.path!r} cannot be written to an image: {error}") from error
        position = _place(inode, position)
    block = -(-position // BLOCK)
    for inode in inodes:
        inode.first_block = block
        block += inode.full_blocks
    return Plan(inodes, by_node, name_count, inodes_end=position, end=block * BLOCK)


def _collect(root: Node) -> tuple[list[PlannedInode], dict[Node, PlannedInode], int]:
    first = PlannedInode(root, None, b"")
    inodes = [first]
    by_node = {root: first}
    name_count = 1
    for directory in inodes:
        if not directory.node.is_directory:
            continue
        directory.nlink = 2
        children = directory.node.children
        directory.names = names = sorted([b".", b"..", *children])
        directory.inodes = found = []
        for name in names:
            node = children.get(name)
            if name in (b".", b".."):
                if node is not None:
                    raise PlanInvalid(f"{directory.path!r} has a child that is called {name!r}")
                found.append(directory if name == b"." else directory.parent or directory)
                continue
            assert node is not None
            _check_name(directory, name)
            name_count += 1
            inode = by_node.get(node)
            if inode is None:
                inode = PlannedInode(node, directory, name)
                inodes.append(inode)
                by_node[node] = inode
                directory.nlink += node.is_directory
            elif node.is_directory:
                raise PlanInvalid(
                    f"directory {inode.path!r} has a second name, {name!r} in {directory.path!r}"
                )
            else:
                inode.nlink += 1
            found.append(inode)
    return inodes, by_node, name_count


def _check_name(directory: PlannedInode, name: bytes) -> None:
    if not 0 < len(name) <= MAX_NAME or b"/" in name or b"\0" in name:
        raise PlanInvalid(
            f"{name!r} in {directory.path!r} cannot be written to an image: a name of {len(name)} bytes,"
            f" expected 1 to {MAX_NAME} without slash and NUL"
        )


def _check_fields(node: Node) -> None:
    if not 0 <= node.mode < 1 << 16 or not TYPE_OF_MODE[node.mode >> 12]:
        raise PlanInvalid(f"mode {node.mode:#o} has no file type")
    for what, value in (("uid", node.uid), ("gid", node.gid), ("device number", node.rdev)):
        if not 0 <= value < 1 << 32:
            raise PlanInvalid(f"{what} {value} does not fit into 32 bits")
    if not -1 << 63 <= node.mtime < 1 << 63 or not 0 <= node.mtime_ns < 10**9:
        raise PlanInvalid(f"mtime {node.mtime} s {node.mtime_ns} ns is out of range")
    if node.children and not node.is_directory:
        raise PlanInvalid("it has children and is no directory")
    if node.chunks and not stat.S_ISREG(node.mode):
        raise PlanInvalid("it has chunks and is no regular file")


def _measure(inode: PlannedInode, chunk_size: int) -> None:
    """Set size and layout."""
    node = inode.node
    if stat.S_ISREG(node.mode):
        if not 0 <= node.size < 1 << 63 or len(node.chunks) != -(-node.size // chunk_size):
            raise PlanInvalid(
                f"{counted(len(node.chunks), 'chunk')} of {chunk_size} bytes cannot make"
                f" {counted(node.size, 'byte')}"
            )
        inode.size, inode.layout = node.size, LAYOUT_CHUNKS
        return
    if node.is_directory:
        inode.size = directory_size(inode.names)
    elif stat.S_ISLNK(node.mode):
        if not 0 < len(node.target) <= LONGEST_FOLLOWED or b"\0" in node.target:
            raise PlanInvalid(
                f"a symlink target of {counted(len(node.target), 'byte')}, expected 1 to"
                f" {LONGEST_FOLLOWED} without NUL"
            )
        inode.size = len(node.target)
    tail = inode.size % BLOCK
    if tail and INODE_EXTENDED.size + len(inode.xattrs) + tail <= BLOCK:
        inode.layout = LAYOUT_INLINE
        inode.full_blocks = inode.size // BLOCK
    else:
        inode.full_blocks = -(-inode.size // BLOCK)


def _place(inode: PlannedInode, position: int) -> int:
    """Put the inode at *position* or a little behind it; the position behind it."""
    position += -position % NID_UNIT
    tail = 0
    if inode.layout == LAYOUT_CHUNKS:
        tail = len(inode.node.chunks) * CHUNK_ENTRY.size
    elif inode.layout == LAYOUT_INLINE:
        tail = inode.size % BLOCK
        # Inode, xattrs and tail must lie in one block; the kernel maps inline content through a single one.
        if position % BLOCK + INODE_EXTENDED.size + len(inode.xattrs) + tail > BLOCK:
            position += -position % BLOCK
    inode.position = position
    inode.end = inode.tail_position + tail
    return inode.end
