"""Writes a bootstrap: the tree of an image as a valid EROFS file system over its blobs.

First everything gets its place (`bootstrap_plan` for inodes, here for the tables), then the bytes are
written front to back, and each part asserts that it begins where it was planned. The same tree and blobs give
the same bytes.

    superblocks, device slots
    blob table, prefetch table
    an empty block, inodes
    whole blocks of long directories and symlinks
    chunk table

Each line begins at a multiple of 4096.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass

from .bootstrap_plan import ROOT_NID, Plan, PlannedInode, plan_inodes
from .chunk_lists import ChunkTables
from .chunk_placement import ChunkPlacement
from .codes import (
    BLOCK,
    DEVICE_SLOTS_OFFSET,
    EXTENDED_SUPERBLOCK_OFFSET,
    FORMAT_EXTENDED,
    MAX_CHUNK_SIZE,
    MIN_CHUNK_SIZE,
    SUPERBLOCK_OFFSET,
    RafsFlag,
)
from .directory_writer import pack_directory
from .errors import ImageTooLarge
from .finished_blob import FinishedBlob
from .records import (
    BLOB_ENTRY,
    DEVICE_SLOT,
    EXTENDED_SUPERBLOCK,
    INODE_EXTENDED,
    SUPERBLOCK,
    DeviceSlot,
    ExtendedSuperblock,
    Superblock,
)
from .tree import Node, PlanInvalid
from .xattr_area import xattr_icount

_U32 = 1 << 32

_pack_inode = INODE_EXTENDED.struct.pack  # without a record of names: it is every inode's

# Blobs of the flat form (bootstrap and blobs on one disk) begin at multiples of this, as Nydus has them.
_FLAT_ALIGNMENT = 512 << 10


@dataclass(frozen=True, slots=True)
class _Places:
    """Byte offsets of the parts."""

    blob_table: int
    prefetch_table: int
    inode_area: int
    chunk_table: int
    chunk_table_size: int  # without what fills its last block
    end: int


def write_bootstrap(
    root: Node, blobs: Sequence[FinishedBlob], *, chunk_size: int, prefetch: Sequence[Node] = ()
) -> bytes:
    """The bootstrap of the tree at *root*; the blob key of a chunk is the position of its blob in *blobs*.

    Blobs that no file uses are dropped, the others keep their order. Link counts are computed. *chunk_size*,
    in bytes, is that of all blobs. *prefetch*: nodes of the tree that a start needs first, in this order; a
    directory stands for all below it.

    Raises:
        PlanInvalid: the tree cannot be expressed in the format, or does not fit the blobs.
        ImageTooLarge: too many blobs or too many bytes in them.
    """
    return bytes(BootstrapDraft(root, blobs, chunk_size=chunk_size, prefetch=prefetch).finish(blobs))


class BootstrapDraft:
    """A bootstrap that lacks only its blobs' names and sizes, as nobody knows while they are written."""

    def __init__(
        self, root: Node, blobs: Sequence[ChunkTables], *, chunk_size: int, prefetch: Sequence[Node] = ()
    ) -> None:
        """As `write_bootstrap`; nodes and chunks are read now and not again."""
        if not MIN_CHUNK_SIZE <= chunk_size <= MAX_CHUNK_SIZE or chunk_size & (chunk_size - 1):
            raise PlanInvalid(
                f"chunk size {chunk_size}, expected a power of two from {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE}"
            )
        self._chunk_size = chunk_size
        plan = plan_inodes(root, chunk_size)
        self._has_xattrs, self._name_count = plan.has_xattrs, plan.name_count
        assert plan.inodes[0].nid == ROOT_NID
        files = (inode.node for inode in plan.inodes if stat.S_ISREG(inode.node.mode))
        placement = ChunkPlacement(files, blobs, chunk_size)
        self.keys = tuple(placement.keys)  # of the blobs that files use, in blob table order
        self._planned = placement.blobs
        self._prefetch = b"".join(nid.to_bytes(4, "little") for nid in _prefetch_nids(plan, prefetch))
        self._places = places = _place_parts(plan, placement, len(self._prefetch))
        self._out = out = bytearray(places.inode_area)
        _write_inodes(out, plan, placement, places.inode_area)
        _pad_to(out, places.chunk_table)
        plan.close()
        placement.write_chunk_table(out)
        _pad_to(out, places.end)

    def finish(self, blobs: Sequence[FinishedBlob]) -> bytearray:
        """The whole, which is the draft's own. *blobs* are those it was made for, in the same order.

        Raises:
            ImageTooLarge: too many bytes in them.
        """
        places = self._places
        used = [blobs[key] for key in self.keys]
        for blob, planned in zip(used, self._planned, strict=True):
            assert blob.sizes == planned.sizes and blob.digests == planned.digests
        head = bytearray()
        self._write_superblocks(head, used)
        _pad_to(head, places.blob_table)
        for index, blob in enumerate(used):
            head += BLOB_ENTRY.pack(blob.record(index).entry())
        _pad_to(head, places.prefetch_table)
        head += self._prefetch
        assert len(head) <= places.inode_area
        self._out[: len(head)] = head
        return self._out

    def _write_superblocks(self, out: bytearray, blobs: Sequence[FinishedBlob]) -> None:
        places = self._places
        slots, blocks = _device_slots(blobs, places.end)
        flags = (
            RafsFlag.ENCRYPTION_NONE
            | RafsFlag.EXPLICIT_UID_GID
            | RafsFlag.INLINED_CHUNK_DIGEST
            | RafsFlag.HASH_BLAKE3
            | RafsFlag.COMPRESSION_ZSTD
        )
        if self._has_xattrs:
            flags |= RafsFlag.HAS_XATTR
        _pad_to(out, SUPERBLOCK_OFFSET)
        out += SUPERBLOCK.pack(
            Superblock(
                root_nid=ROOT_NID,
                inode_count=self._name_count,
                blocks=blocks,
                meta_block=places.inode_area // BLOCK,
                device_count=len(slots),
            )
        )
        _pad_to(out, EXTENDED_SUPERBLOCK_OFFSET)
        out += EXTENDED_SUPERBLOCK.pack(
            ExtendedSuperblock(
                flags=flags,
                blob_table_offset=places.blob_table,
                blob_table_size=BLOB_ENTRY.size * len(blobs),
                chunk_size=self._chunk_size,
                chunk_table_offset=places.chunk_table,
                chunk_table_size=places.chunk_table_size,
                prefetch_table_offset=places.prefetch_table if self._prefetch else 0,
                prefetch_table_size=len(self._prefetch),
            )
        )
        _pad_to(out, DEVICE_SLOTS_OFFSET)
        for slot in slots:
            out += DEVICE_SLOT.pack(slot)


def _up(position: int, alignment: int = BLOCK) -> int:
    return position + -position % alignment


def _pad_to(out: bytearray, position: int) -> None:
    assert len(out) <= position, f"planned {position:#x}, but {len(out):#x} bytes are written"
    out += bytes(position - len(out))


def _prefetch_nids(plan: Plan, nodes: Sequence[Node]) -> list[int]:
    nids = []
    for node in nodes:
        inode = plan.by_node.get(node)
        if inode is None:
            raise PlanInvalid(
                f"a node to prefetch (mode {node.mode:#o}, {node.size} bytes) is not in the tree"
            )
        if inode.nid >= _U32:
            raise ImageTooLarge(f"inode number {inode.nid} of {inode.path!r} does not fit a prefetch table")
        nids.append(inode.nid)
    return nids


def _place_parts(plan: Plan, placement: ChunkPlacement, prefetch_size: int) -> _Places:
    blob_table = _up(DEVICE_SLOTS_OFFSET + DEVICE_SLOT.size * len(placement.blobs))
    prefetch_table = blob_table + BLOB_ENTRY.size * len(placement.blobs)
    inode_area = _up(prefetch_table + prefetch_size)
    chunk_table = inode_area + plan.end
    end = _up(chunk_table + placement.chunk_table_size)
    if end // BLOCK >= _U32:
        raise ImageTooLarge(f"the bootstrap would have {end} bytes, its blocks are numbered with 32 bits")
    return _Places(blob_table, prefetch_table, inode_area, chunk_table, placement.chunk_table_size, end)


def _device_slots(blobs: Sequence[FinishedBlob], bootstrap_size: int) -> tuple[list[DeviceSlot], int]:
    """The slots, and the sum of their blocks."""
    slots = []
    flat = bootstrap_size
    for blob in blobs:
        flat = _up(flat, _FLAT_ALIGNMENT)
        slots.append(DeviceSlot(blob.id.encode("ascii"), blob.uncompressed_size // BLOCK, flat // BLOCK))
        flat += blob.uncompressed_size
    if flat // BLOCK >= _U32:
        raise ImageTooLarge(f"the blobs have {flat} bytes together, their blocks are numbered with 32 bits")
    return slots, sum(slot.blocks for slot in slots)


def _write_inodes(out: bytearray, plan: Plan, placement: ChunkPlacement, area: int) -> None:
    behind: list[tuple[int, bytes]] = []  # (position, content) of the blocks behind the inodes
    for ino, inode in enumerate(plan.inodes, 1):
        i_u, content = _content(inode, placement, area // BLOCK)
        position = area + inode.position
        if len(out) < position:
            _pad_to(out, position)
        out += _inode_record(inode, i_u, ino)
        out += inode.xattrs
        if inode.full_blocks:
            split = inode.full_blocks * BLOCK
            behind.append((inode.first_block * BLOCK, content[:split]))
            content = content[split:]
        if content:
            tail = area + inode.tail_position
            if len(out) < tail:
                _pad_to(out, tail)
            out += content
        assert len(out) == area + inode.end, f"{inode.path!r} has {len(out) - position} bytes"
    assert len(out) == area + plan.inodes_end
    for position, content in behind:
        _pad_to(out, area + position)
        out += content


def _content(inode: PlannedInode, placement: ChunkPlacement, area_block: int) -> tuple[int, bytes]:
    """(i_u, bytes): what the inode says of its content, and the content itself, chunk entries for a file."""
    node = inode.node
    if stat.S_ISREG(node.mode):
        try:
            return placement.place_file(node)
        except PlanInvalid as error:
            raise PlanInvalid(f"{inode.path!r} cannot be written to an image: {error}") from error
    if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        return node.rdev, b""
    block = area_block + inode.first_block if inode.full_blocks else 0
    if node.is_directory:
        nids = [child.nid for child in inode.inodes]
        types = [child.file_type for child in inode.inodes]
        return block, pack_directory(inode.names, nids, types)
    return block, node.target if stat.S_ISLNK(node.mode) else b""


def _inode_record(inode: PlannedInode, i_u: int, ino: int) -> bytes:
    node = inode.node
    return _pack_inode(
        FORMAT_EXTENDED | inode.layout << 1,
        xattr_icount(inode.xattrs) if inode.xattrs else 0,
        node.mode,
        0,
        inode.size,
        i_u,
        ino,
        node.uid,
        node.gid,
        node.mtime,
        node.mtime_ns,
        inode.nlink,
        b"",
    )
