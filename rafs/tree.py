"""The file tree of an image, as a writer is given it: nodes in memory, no positions, no bytes of files.

Not a view of a bootstrap (`bootstrap` is, without an object per inode). Builders make the tree, merge layers
into it and hand its root to `bootstrap_writer`. A node takes about 0.5 KB with its name, so an image of a
million files fits into memory.

A hard link is the same `Node` object under several names.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NewType

from .codes import MAX_CHUNKS
from .errors import RafsError

ChunkRef = NewType("ChunkRef", int)

_INDEX_BITS: Final = 24
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1


class PlanInvalid(RafsError):
    """The tree cannot be written as an image: the message names path and limit. The input must change."""


def chunk_ref(blob_key: int, chunk_index: int) -> ChunkRef:
    """The number that stands for chunk *chunk_index* of the caller's blob *blob_key* in `Node.chunks`.

    An int, not a pair: 32 bytes instead of 120, and it fits into `array("Q")`. Blob keys are below 2**40.
    """
    assert 0 <= chunk_index <= MAX_CHUNKS and 0 <= blob_key < 1 << 40
    return ChunkRef(blob_key << _INDEX_BITS | chunk_index)


def split_ref(ref: int) -> tuple[int, int]:
    """(blob_key, chunk_index) of a `ChunkRef`."""
    return ref >> _INDEX_BITS, ref & _INDEX_MASK


class _NoChildren(dict[bytes, "Node"]):
    """Stays empty, so that nodes which are no directories share it: 64 bytes less for each."""

    def __setitem__(self, name: bytes, node: Node) -> None:
        raise TypeError(f"{name!r} was put into what is no directory")


NO_CHILDREN: Final[dict[bytes, Node]] = _NoChildren()


@dataclass(slots=True, eq=False)
class Node:
    """One inode. Identity is what makes it one: two equal nodes are two files.

    Which fields count depends on the type in `mode`; the others keep their defaults:
    regular files have `size` and `chunks`, symlinks `target`, directories `children`, devices `rdev`.
    """

    mode: int  # whole st_mode: type and permissions
    uid: int = 0  # 32 bits
    gid: int = 0  # 32 bits
    mtime: int = 0  # whole seconds since 1970, may be negative
    mtime_ns: int = 0  # 0 .. 999 999 999, counted forward from mtime
    rdev: int = 0  # the kernel's 32-bit encoding, see device_number
    size: int = 0  # bytes
    target: bytes = b""
    xattrs: dict[bytes, bytes] | None = None  # by full name; may be shared between nodes
    chunks: Sequence[int] = ()  # ChunkRefs in file order; a tuple, or an array("Q") for long files
    # Without "." and ".."; any order. What is no directory may have NO_CHILDREN.
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


def fresh_copy(node: Node) -> Node:
    """Another inode with the attributes of *node*, without its children."""
    return replace(node, children={} if node.is_directory else NO_CHILDREN)


def take_attributes(directory: Node, other: Node) -> None:
    """Give *directory* what a directory has besides its children, all as *other* has it."""
    directory.mode, directory.uid, directory.gid = other.mode, other.uid, other.gid
    directory.mtime, directory.mtime_ns, directory.xattrs = other.mtime, other.mtime_ns, other.xattrs


def device_number(major: int, minor: int) -> int:
    """The kernel's 32-bit encoding of a device number: 12 bits of major, 20 of minor.

    Raises:
        PlanInvalid: a part has more bits than that.
    """
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise PlanInvalid(f"device {major}:{minor} has more than 12 bits of major or 20 bits of minor number")
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def split_device_number(rdev: int) -> tuple[int, int]:
    """(major, minor) of the kernel's 32-bit encoding."""
    return rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00


def walk(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Every name below *root* with its node: parents first, names sorted; the root is `b"/"`."""
    pending = [(b"/", root)]
    while pending:
        path, node = pending.pop()
        yield path, node
        if node.children:
            prefix = path if path == b"/" else path + b"/"
            names = sorted(node.children, reverse=True)
            pending.extend((prefix + name, node.children[name]) for name in names)
