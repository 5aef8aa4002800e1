"""Every on-disk record of RAFS v6, each declared once: one field per line, in order, with its width.

A record is a `NamedTuple` whose annotations carry the `struct` codes; its `Layout` reads and writes it.
Defaults are the values of an ordinary image, so a writer names only what it decides. Nothing here judges
a value: that is for the readers and for `check`. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from rafs.counted import counted

from .codes import CHUNK_META_MAGIC, DEVICE_SLOT_INDEX, EROFS_MAGIC, FEATURE_COMPAT_RAFS_V6, FEATURE_INCOMPAT
from .errors import FormatInvalid

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
I64 = Annotated[int, "q"]
B1 = Annotated[bytes, "1s"]
B7 = Annotated[bytes, "7s"]
B8 = Annotated[bytes, "8s"]
B12 = Annotated[bytes, "12s"]
B16 = Annotated[bytes, "16s"]
B32 = Annotated[bytes, "32s"]
B36 = Annotated[bytes, "36s"]
B38 = Annotated[bytes, "38s"]
B48 = Annotated[bytes, "48s"]
B56 = Annotated[bytes, "56s"]
B64 = Annotated[bytes, "64s"]
B100 = Annotated[bytes, "100s"]
B155 = Annotated[bytes, "155s"]
B200 = Annotated[bytes, "200s"]
B4032 = Annotated[bytes, "4032s"]

Record = TypeVar("Record", bound=tuple[Any, ...])


class Layout(Generic[Record]):
    """Reads and writes one kind of record. Immutable; safe from any thread."""

    def __init__(self, record: type[Record], size: int) -> None:
        # Not typing.get_type_hints: it compiles each annotation again, 4 ms at every start of the command.
        widths = [globals()[hint.__forward_arg__] for hint in record.__annotations__.values()]
        self.struct = struct.Struct("<" + "".join(width.__metadata__[0] for width in widths))
        self.size = size
        self._record = record
        self._make = record._make  # type: ignore[attr-defined]
        assert self.struct.size == size, f"{record.__name__} has {self.struct.size} bytes, not {size}"

    def unpack(self, raw: bytes | memoryview, offset: int = 0) -> Record:
        """The record at byte *offset* of *raw*.

        Raises:
            FormatInvalid: it does not lie inside *raw*.
        """
        if offset < 0 or offset + self.size > len(raw):
            raise FormatInvalid(
                f"{self._record.__name__} at {offset:#x} needs {self.size} bytes, all end at {len(raw):#x}"
            )
        record: Record = self._make(self.struct.unpack_from(raw, offset))
        return record

    def unpack_all(self, raw: bytes | memoryview) -> Iterator[Record]:
        """The records of a table; *raw* must be whole records.

        Raises:
            FormatInvalid: the length of *raw* is not a multiple of the record's.
        """
        if len(raw) % self.size:
            raise FormatInvalid(
                f"{self._record.__name__} table of {counted(len(raw), 'byte')} is not a multiple of"
                f" {self.size} bytes"
            )
        return map(self._make, self.struct.iter_unpack(raw))

    def pack(self, record: Record) -> bytes:
        """The bytes of *record*; shorter byte fields are filled with zeros.

        Raises:
            FormatInvalid: a value does not fit into its field.
        """
        try:
            return self.struct.pack(*record)
        except struct.error as error:
            raise FormatInvalid(f"{record!r} does not fit into its fields: {error}") from error


class Superblock(NamedTuple):
    """At 0x400: what EROFS knows."""

    magic: U32 = EROFS_MAGIC
    checksum: U32 = 0
    feature_compat: U32 = FEATURE_COMPAT_RAFS_V6
    block_bits: U8 = 12  # 9: tarfs
    extra_slots: U8 = 0
    root_nid: U16 = 0
    inode_count: U64 = 0  # hard links counted once per name
    build_time: I64 = 0  # s; mtime of compact inodes
    build_time_nsec: U32 = 0
    blocks: U32 = 0  # sum over the device slots
    meta_block: U32 = 0  # nid 0 is at meta_block * block
    xattr_block: U32 = 0
    uuid: B16 = b""
    volume_name: B16 = b""
    feature_incompat: U32 = FEATURE_INCOMPAT
    compression_algorithms: U16 = 0
    device_count: U16 = 0
    device_slot_index: U16 = DEVICE_SLOT_INDEX  # * 128 = byte offset of the slots
    reserved: B38 = b""


class ExtendedSuperblock(NamedTuple):
    """At 0x480: what RAFS adds."""

    flags: U64 = 0  # codes.RafsFlag
    blob_table_offset: U64 = 0  # multiple of 4096
    blob_table_size: U32 = 0  # bytes
    chunk_size: U32 = 0  # power of two
    chunk_table_offset: U64 = 0  # multiple of 4096
    chunk_table_size: U64 = 0  # bytes
    prefetch_table_offset: U64 = 0  # multiple of 8; 0: none
    prefetch_table_size: U32 = 0  # bytes
    padding: U32 = 0
    reserved: B200 = b""


class DeviceSlot(NamedTuple):
    """At 0x580, one per blob: slot i is device i + 1."""

    tag: B64 = b""  # the blob's id
    blocks: U32 = 0
    mapped_block: U32 = 0  # in the flat form of bootstrap and blobs
    reserved: B56 = b""


class BlobEntry(NamedTuple):
    """Row i of the blob table describes blob i."""

    blob_id: B64 = b""  # 64 lower-case hex digits, or a given name and zeros
    blob_index: U32 = 0
    chunk_size: U32 = 0
    chunk_count: U32 = 0
    compressor: U32 = 0  # codes.Compressor
    digester: U32 = 0  # codes.Digester
    features: U32 = 0  # codes.BlobFeature
    compressed_size: U64 = 0  # not always that of the object
    uncompressed_size: U64 = 0  # of the address space, multiple of 4096
    toc_size: U32 = 0  # entries + 512; 0: unknown
    ci_compressor: U32 = 0
    ci_offset: U64 = 0
    ci_compressed_size: U64 = 0
    ci_uncompressed_size: U64 = 0  # with contexts
    toc_digest: B32 = b""  # sha256(entries, tar header)
    meta_digest: B32 = b""  # of the separate object; encrypted images: the key
    meta_size: U64 = 0  # encrypted images: IV bytes 0-7
    iv_tail: B8 = b""  # encrypted images: IV bytes 8-15
    cipher: U32 = 0  # codes.Cipher
    reserved: B36 = b""


class ChunkRow(NamedTuple):
    """One distinct chunk in the bootstrap's chunk table."""

    digest: B32 = b""  # of the uncompressed bytes
    blob_index: U32 = 0
    flags: U32 = 0  # codes.RowFlag
    compressed_size: U32 = 0  # 0: batch member
    size: U32 = 0
    compressed_offset: U64 = 0
    offset: U64 = 0  # in the uncompressed address space
    file_offset: U64 = 0  # in one file that uses it
    chunk_index: U32 = 0
    crc32c: U32 = 0


class InodeExtended(NamedTuple):
    """The 64-byte form: i_format bit 0 is set."""

    i_format: U16 = 1
    xattr_icount: U16 = 0  # 0, or 1 + (bytes of the xattr area - 12) / 4
    mode: U16 = 0  # whole st_mode
    reserved: U16 = 0
    size: U64 = 0
    i_u: U32 = 0  # block number, chunk format or rdev: by layout and mode
    ino: U32 = 0
    uid: U32 = 0
    gid: U32 = 0
    mtime: I64 = 0  # s
    mtime_nsec: U32 = 0
    nlink: U32 = 1
    reserved2: B16 = b""


class InodeCompact(NamedTuple):
    """The 32-byte form; its mtime counts from the superblock's build time."""

    i_format: U16 = 0
    xattr_icount: U16 = 0
    mode: U16 = 0
    nlink: U16 = 1
    size: U32 = 0
    mtime: U32 = 0  # s after the build time; Linux 6.15, Nydus writes 0
    i_u: U32 = 0
    ino: U32 = 0
    uid: U16 = 0
    gid: U16 = 0
    reserved2: U32 = 0


class ChunkEntry(NamedTuple):
    """Where one chunk of a file is; after the inode, aligned to 8."""

    index_low: U16 = 0  # bits 0-15 of the index in the blob
    device: U8 = 0  # blob index + 1
    index_high: U8 = 0  # bits 16-23
    block: U32 = 0  # uncompressed offset / block


class Dirent(NamedTuple):
    nid: U64 = 0
    name_offset: U16 = 0  # from the start of the directory block
    file_type: U8 = 0
    reserved: U8 = 0


class XattrHeader(NamedTuple):
    name_filter: U32 = 0
    shared_count: U8 = 0
    reserved: B7 = b""


class XattrEntry(NamedTuple):
    """Followed by suffix and value, padded together to 4."""

    name_length: U8 = 0  # of the suffix
    prefix: U8 = 0  # codes.XATTR_PREFIXES
    value_size: U16 = 0


class ChunkInfoV1(NamedTuple):
    """Bit fields, see `chunk_info`."""

    u0: U64 = 0
    u1: U64 = 0


class ChunkInfoV2(NamedTuple):
    """Bit fields, see `chunk_info`."""

    u0: U64 = 0
    u1: U64 = 0
    u2: U64 = 0


class BatchContext(NamedTuple):
    """One compressed unit; stored raw iff both sizes are equal."""

    compressed_size: U32 = 0
    size: U32 = 0
    reserved: B32 = b""


class ZranContext(NamedTuple):
    in_offset: U64 = 0
    out_offset: U64 = 0
    dict_offset: U64 = 0  # from the end of the contexts
    in_size: U32 = 0
    out_size: U32 = 0
    dict_size: U32 = 0
    bit_byte: U8 = 0
    bits: U8 = 0
    reserved: U16 = 0


class ChunkInfoHeader(NamedTuple):
    """Follows the chunk info array; repeats the blob table's fields."""

    magic: U32 = CHUNK_META_MAGIC
    features: U32 = 0
    ci_compressor: U32 = 0
    ci_entries: U32 = 0
    ci_offset: U64 = 0
    ci_compressed_size: U64 = 0
    ci_uncompressed_size: U64 = 0
    context_offset: U64 = 0  # in the uncompressed array; 0 if there are none
    context_size: U64 = 0  # bytes
    context_count: U32 = 0
    reserved: B4032 = b""
    magic2: U32 = CHUNK_META_MAGIC


class TocEntry(NamedTuple):
    flags: U32 = 0
    reserved: U32 = 0
    name: B16 = b""
    digest: B32 = b""  # sha256 of the uncompressed section
    compressed_offset: U64 = 0
    compressed_size: U64 = 0
    size: U64 = 0
    reserved2: B48 = b""  # may hold garbage


class TarHeader(NamedTuple):
    """GNU form; comes after the section it names."""

    name: B100 = b""
    mode: B8 = b""
    uid: B8 = b""
    gid: B8 = b""
    size: B12 = b""  # 11 octal digits
    mtime: B12 = b"00000000000"
    checksum: B8 = b""  # 7 octal digits
    type_flag: B1 = b"0"
    link_name: B100 = b""
    magic: B8 = b"ustar  "
    user_name: B32 = b""
    group_name: B32 = b""
    device_major: B8 = b""
    device_minor: B8 = b""
    prefix: B155 = b""
    padding: B12 = b""


SUPERBLOCK = Layout(Superblock, 128)
EXTENDED_SUPERBLOCK = Layout(ExtendedSuperblock, 256)
DEVICE_SLOT = Layout(DeviceSlot, 128)
BLOB_ENTRY = Layout(BlobEntry, 256)
CHUNK_ROW = Layout(ChunkRow, 80)
INODE_EXTENDED = Layout(InodeExtended, 64)
INODE_COMPACT = Layout(InodeCompact, 32)
CHUNK_ENTRY = Layout(ChunkEntry, 8)
DIRENT = Layout(Dirent, 12)
XATTR_HEADER = Layout(XattrHeader, 12)
XATTR_ENTRY = Layout(XattrEntry, 4)
CHUNK_INFO_V1 = Layout(ChunkInfoV1, 16)
CHUNK_INFO_V2 = Layout(ChunkInfoV2, 24)
BATCH_CONTEXT = Layout(BatchContext, 40)
ZRAN_CONTEXT = Layout(ZranContext, 40)
CHUNK_INFO_HEADER = Layout(ChunkInfoHeader, 4096)
TOC_ENTRY = Layout(TocEntry, 128)
TAR_HEADER = Layout(TarHeader, 512)
