"""The fixed part of a bootstrap: both superblocks, device slots, blob table, and where the other tables are.

One pass serves two callers: the reader raises at the first fatal finding, `check` collects them all. Not the
inodes (`bootstrap`) and not the rows of the chunk table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import pairwise

from rafs.counted import counted

from .blob_record import BlobRecord, blob_record, broken_rules
from .codes import (
    BLOCK,
    COMPRESSION_FLAGS,
    DEVICE_SLOT_INDEX,
    DEVICE_SLOTS_OFFSET,
    EROFS_MAGIC,
    EXTENDED_SUPERBLOCK_OFFSET,
    FEATURE_COMPAT_CHECKSUM,
    FEATURE_COMPAT_RAFS_V6,
    FEATURE_INCOMPAT,
    HASH_FLAGS,
    KNOWN_FLAGS,
    MAX_BLOBS,
    MAX_CHUNK_SIZE,
    MIN_CHUNK_SIZE,
    SUPERBLOCK_OFFSET,
    TARFS_BLOCK,
    V5_MAGIC,
    BlobFeature,
    RafsFlag,
)
from .errors import FormatInvalid, FormatUnsupported
from .findings import Finding, Report
from .records import (
    BLOB_ENTRY,
    CHUNK_ROW,
    DEVICE_SLOT,
    EXTENDED_SUPERBLOCK,
    SUPERBLOCK,
    DeviceSlot,
    ExtendedSuperblock,
    Superblock,
)


@dataclass(frozen=True, slots=True)
class Header:
    """What every reader of the bootstrap needs first."""

    superblock: Superblock
    extended: ExtendedSuperblock
    block_size: int  # 4096; 512: tarfs
    slots: tuple[DeviceSlot, ...]
    blobs: tuple[BlobRecord, ...]

    @property
    def flags(self) -> RafsFlag:
        return RafsFlag(self.extended.flags)

    @property
    def is_tarfs(self) -> bool:
        """Whether the blobs are plain tars, addressed in blocks of 512 bytes."""
        return bool(self.extended.flags & RafsFlag.TARFS_MODE)

    @property
    def meta_offset(self) -> int:
        """Byte offset of nid 0."""
        return self.superblock.meta_block * self.block_size

    def tables(self) -> list[tuple[int, int, str]]:
        """(start, end, name) of every fixed part and table that has bytes, in file order."""
        slots_end = DEVICE_SLOTS_OFFSET + DEVICE_SLOT.size * self.superblock.device_count
        extended = self.extended
        parts = [(0, slots_end, "superblock and device slots")]
        for start, size, name in (
            (extended.blob_table_offset, extended.blob_table_size, "blob table"),
            (extended.chunk_table_offset, extended.chunk_table_size, "chunk table"),
            (extended.prefetch_table_offset, extended.prefetch_table_size, "prefetch table"),
        ):
            if start and size:
                parts.append((start, start + size, name))
        return sorted(parts)


def read_header(raw: bytes, report: Report) -> Header | None:
    """Read and judge the fixed part of the bootstrap *raw*; None if nothing useful can be said of the rest.

    Each broken rule goes to *report*, which may raise.

    Raises:
        FormatUnsupported: a bootstrap of RAFS v5, or one that names an external blob.
    """

    def fatal(rule: str, where: str, message: str) -> None:
        report(Finding(rule, where, message, fatal=True))

    if len(raw) >= 4 and int.from_bytes(raw[:4], "little") == V5_MAGIC:
        raise FormatUnsupported(
            "RAFS v5", "the bootstrap starts with the magic of version 5, version 6 is needed"
        )
    if len(raw) < BLOCK:
        fatal("file-size", "bootstrap", f"{counted(len(raw), 'byte')}, expected at least {BLOCK}")
        return None
    superblock = SUPERBLOCK.unpack(raw, SUPERBLOCK_OFFSET)
    extended = EXTENDED_SUPERBLOCK.unpack(raw, EXTENDED_SUPERBLOCK_OFFSET)
    if superblock.magic != EROFS_MAGIC:
        fatal(
            "magic",
            "superblock",
            f"magic is {superblock.magic:#010x}, a RAFS v6 bootstrap has {EROFS_MAGIC:#010x}",
        )
        return None
    tarfs = bool(extended.flags & RafsFlag.TARFS_MODE)
    block_size = TARFS_BLOCK if tarfs else BLOCK
    _judge_superblock(superblock, tarfs, len(raw), block_size, report)
    _judge_extended(extended, superblock.device_count, report)
    header = Header(superblock, extended, block_size, (), ())
    if not _tables_are_apart(header, len(raw), report) or not extended.chunk_size:
        return None
    slots_end = DEVICE_SLOTS_OFFSET + DEVICE_SLOT.size * superblock.device_count
    slots = tuple(DEVICE_SLOT.unpack_all(raw[DEVICE_SLOTS_OFFSET:slots_end]))
    table = raw[extended.blob_table_offset :][: extended.blob_table_size]
    blobs = _read_blobs(table, extended.chunk_size, report)
    if blobs is None or len(blobs) != len(slots):
        return None
    _judge_slots(slots, blobs, superblock, block_size, len(raw), report)
    return Header(superblock, extended, block_size, slots, blobs)


def prefetch_nids(raw: bytes, header: Header) -> tuple[int, ...]:
    """The inode numbers of the prefetch table, in order, up to the first 0."""
    extended = header.extended
    if not extended.prefetch_table_offset or not extended.prefetch_table_size:
        return ()
    nids = struct.unpack_from(f"<{extended.prefetch_table_size // 4}I", raw, extended.prefetch_table_offset)
    return nids[: nids.index(0)] if 0 in nids else nids


def _judge_superblock(found: Superblock, tarfs: bool, size: int, block_size: int, report: Report) -> None:
    where = "superblock"

    def expect(rule: str, holds: bool, message: str) -> None:
        if not holds:
            report(Finding(rule, where, message, fatal=True))

    bits = 9 if tarfs else 12
    expect("block-size", found.block_bits == bits, f"block size is 2^{found.block_bits}, expected 2^{bits}")
    expect("file-size", size % block_size == 0, f"file of {size} bytes is not a multiple of {block_size}")
    expect("checksum", found.checksum == 0, f"checksum is {found.checksum:#x}, expected 0")
    expect(
        "feature-compat",
        bool(found.feature_compat & FEATURE_COMPAT_RAFS_V6),
        f"compatible features {found.feature_compat:#x} lack RAFS_V6 ({FEATURE_COMPAT_RAFS_V6:#x})",
    )
    expect(
        "feature-incompat",
        found.feature_incompat == FEATURE_INCOMPAT,
        f"incompatible features are {found.feature_incompat:#x}, expected {FEATURE_INCOMPAT:#x}",
    )
    expect("extra-slots", found.extra_slots == 0, f"{found.extra_slots} superblock extensions, expected 0")
    expect("inode-count", found.inode_count != 0, "the number of inodes is 0")
    expect(
        "xattr-block", found.xattr_block == 0, f"shared xattrs at block {found.xattr_block}, expected none"
    )
    expect(
        "compression-algorithms",
        found.compression_algorithms == 0,
        f"EROFS compression {found.compression_algorithms:#x}, expected 0",
    )
    expect(
        "device-slot-index",
        found.device_slot_index == DEVICE_SLOT_INDEX,
        f"device slots at 128*{found.device_slot_index}, expected 128*{DEVICE_SLOT_INDEX}",
    )
    expect(
        "device-count", found.device_count <= MAX_BLOBS, f"{found.device_count} blobs, at most {MAX_BLOBS}"
    )
    expect(
        "meta-block",
        found.meta_block * block_size < size,
        f"inodes start at block {found.meta_block}, the file has {size // block_size}",
    )
    if found.device_count == 0:
        expect("blocks", found.blocks in (0, 4096), f"{found.blocks} data blocks without a blob")
    if found.feature_compat & FEATURE_COMPAT_CHECKSUM:
        report(Finding("feature-compat", where, "SB_CHKSUM is set: the kernel would refuse the checksum 0"))


def _judge_extended(found: ExtendedSuperblock, device_count: int, report: Report) -> None:
    where = "extended superblock"

    def expect(rule: str, holds: bool, message: str) -> None:
        if not holds:
            report(Finding(rule, where, message, fatal=True))

    flags = found.flags
    expect("flags", not flags & ~KNOWN_FLAGS, f"flags {flags:#x} have unknown bits")
    expect(
        "flags-compressor",
        (flags & COMPRESSION_FLAGS).bit_count() == 1,
        f"flags {flags:#x} must name exactly one compressor",
    )
    expect(
        "flags-digest",
        (flags & HASH_FLAGS).bit_count() == 1,
        f"flags {flags:#x} must name exactly one digest",
    )
    size = found.chunk_size
    expect(
        "chunk-size",
        MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE and size.bit_count() == 1,
        f"chunk size is {size}, expected a power of two from {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE}",
    )
    expect(
        "blob-table",
        found.blob_table_size == BLOB_ENTRY.size * device_count,
        f"blob table has {counted(found.blob_table_size, 'byte')} for {device_count} device slots",
    )
    expect(
        "chunk-table",
        found.chunk_table_size % CHUNK_ROW.size == 0,
        f"chunk table has {counted(found.chunk_table_size, 'byte')}, not a multiple of {CHUNK_ROW.size}",
    )
    expect(
        "prefetch-table",
        found.prefetch_table_size % 4 == 0,
        f"prefetch table has {counted(found.prefetch_table_size, 'byte')}, not a multiple of 4",
    )
    for rule, offset, length, alignment in (
        ("blob-table", found.blob_table_offset, found.blob_table_size, BLOCK),
        ("chunk-table", found.chunk_table_offset, found.chunk_table_size, BLOCK),
        ("prefetch-table", found.prefetch_table_offset, found.prefetch_table_size, 8),
    ):
        if length and (offset or rule != "prefetch-table"):
            expect(
                rule,
                offset >= BLOCK and offset % alignment == 0,
                f"{rule.replace('-', ' ')} at {offset:#x}, expected a multiple of {alignment} from 4096",
            )


def _tables_are_apart(header: Header, size: int, report: Report) -> bool:
    parts = header.tables()
    apart = True
    for start, end, name in parts:
        if end > size:
            apart = False
            report(
                Finding(
                    "table-bounds", name, f"{start:#x} to {end:#x}, the file ends at {size:#x}", fatal=True
                )
            )
    for (_, end, name), (start, _, other) in pairwise(parts):
        if start < end:
            apart = False
            report(
                Finding("table-overlap", other, f"starts at {start:#x}, {name} ends at {end:#x}", fatal=True)
            )
    return apart


def _read_blobs(table: bytes, chunk_size: int, report: Report) -> tuple[BlobRecord, ...] | None:
    if len(table) % BLOB_ENTRY.size:
        return None
    blobs: list[BlobRecord] = []
    for index, entry in enumerate(BLOB_ENTRY.unpack_all(table)):
        where = f"blob {index}"
        try:
            record = blob_record(entry)
        except FormatInvalid as error:
            report(Finding("blob-entry", where, str(error), fatal=True))
            return None
        if record.features & BlobFeature.EXTERNAL:
            # Its row and its chunks keep few of the rules, and nothing vouches for its bytes: judging them
            # would say everything but this.
            raise FormatUnsupported("external blob", f"the chunks of blob {record.id} cannot be read")
        if record.index != index:
            report(Finding("blob-index", where, f"calls itself blob {record.index}", fatal=True))
        for rule, message in broken_rules(record, chunk_size):
            report(Finding(rule, where, message, fatal=True))
        blobs.append(record)
    placed = next((blob for blob in blobs if not blob.is_unplaced), None)
    if placed is None:
        return tuple(blobs)
    # `nydus-image optimize` says BLAKE3 of its blob, whatever the digests are that it takes over from others.
    return tuple(replace(blob, digester=placed.digester) if blob.is_unplaced else blob for blob in blobs)


def _judge_slots(
    slots: tuple[DeviceSlot, ...],
    blobs: tuple[BlobRecord, ...],
    superblock: Superblock,
    block_size: int,
    size: int,
    report: Report,
) -> None:
    seen: set[bytes] = set()
    for index, (slot, blob) in enumerate(zip(slots, blobs, strict=True)):
        where, tag = f"device slot {index}", slot.tag.rstrip(b"\0")
        if slot.blocks == 0:
            report(Finding("slot-blocks", where, "has 0 blocks", fatal=True))
        if tag in seen:
            report(Finding("slot-tag", where, f"tag {tag!r} is there twice", fatal=True))
        seen.add(tag)
        if 0 < slot.mapped_block * block_size < size:
            # The kernel would read what the bootstrap has there from the blob.
            message = f"is mapped at block {slot.mapped_block}, inside the bootstrap of {size} bytes"
            report(Finding("slot-mapped", where, message))
        if tag != blob.id.encode():
            report(Finding("slot-tag", where, f"tag is {tag!r}, the blob's id is {blob.id}"))
        if slot.blocks * block_size != blob.uncompressed_size:
            report(
                Finding(
                    "slot-blocks",
                    where,
                    f"{slot.blocks} blocks of {block_size}, the blob has {blob.uncompressed_size} bytes",
                )
            )
    if slots and superblock.blocks != sum(slot.blocks for slot in slots) & 0xFFFF_FFFF:
        report(
            Finding("blocks", "superblock", f"{superblock.blocks} data blocks, the slots have another sum")
        )
