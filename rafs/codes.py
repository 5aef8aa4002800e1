"""Numbers to which the format gives a meaning: flag bits, algorithms, layouts, types.

Not the records that hold them (`records`) and not our own choices (`defaults`).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

BLOCK: Final = 4096  # bytes; tarfs images count in TARFS_BLOCK instead
TARFS_BLOCK: Final = 512
NID_UNIT: Final = 32  # bytes between two neighbouring node ids

SUPERBLOCK_OFFSET: Final = 0x400
EXTENDED_SUPERBLOCK_OFFSET: Final = 0x480
DEVICE_SLOTS_OFFSET: Final = 0x580

EROFS_MAGIC: Final = 0xE0F5E1E2
V5_MAGIC: Final = 0x52414653  # at byte 0, where v6 has zeros
FEATURE_COMPAT_RAFS_V6: Final = 0x4000_0000
FEATURE_COMPAT_CHECKSUM: Final = 1
FEATURE_INCOMPAT: Final = 0xC  # CHUNKED_FILE | DEVICE_TABLE, exactly
DEVICE_SLOT_INDEX: Final = DEVICE_SLOTS_OFFSET // 128

MIN_CHUNK_SIZE: Final = 4096
MAX_CHUNK_SIZE: Final = 1 << 24
MAX_CHUNKS: Final = (1 << 24) - 1  # per blob; the index has 24 bits
MAX_BLOBS: Final = 254  # index + 1 is a byte, 255 is not used by the reference builder
MAX_COMPRESSED_SIZE: Final = 1 << 40
MAX_UNCOMPRESSED_SIZE: Final = 1 << 44
MAX_NAME: Final = 255
MAX_SYMLINK: Final = 4096  # that is read; what is written is shorter, see `bootstrap_plan`

DIGEST_SIZE: Final = 32
MAX_DICTIONARY: Final = 32 << 10  # of an inflate context; the window of deflate


class RafsFlag(IntFlag):
    """Bits of the extended superblock."""

    COMPRESSION_NONE = 0x1
    COMPRESSION_LZ4 = 0x2
    HASH_BLAKE3 = 0x4
    HASH_SHA256 = 0x8
    EXPLICIT_UID_GID = 0x10
    HAS_XATTR = 0x20
    COMPRESSION_GZIP = 0x40
    COMPRESSION_ZSTD = 0x80
    INLINED_CHUNK_DIGEST = 0x100
    TARFS_MODE = 0x200
    ENCRYPTION_NONE = 0x0100_0000
    ENCRYPTION_AES_128_XTS = 0x0200_0000


COMPRESSION_FLAGS: Final = 0x1 | 0x2 | 0x40 | 0x80
HASH_FLAGS: Final = 0x4 | 0x8
KNOWN_FLAGS: Final = 0xFC00_03FF | 0x0300_0000  # the upper six bits are reserved and tolerated


class BlobFeature(IntFlag):
    """Bits of a blob table entry and of the chunk info header."""

    ALIGNED = 0x1
    INLINED_FS_META = 0x2
    CHUNK_INFO_V2 = 0x4
    ZRAN = 0x8
    SEPARATE = 0x10
    INLINED_CHUNK_DIGEST = 0x20
    TARFS = 0x40
    BATCH = 0x80
    ENCRYPTED = 0x100
    IS_CHUNKDICT_GENERATED = 0x200
    SEPARATED_WITH_PREFETCH_FILES = 0x400
    EXTERNAL = 0x800
    HAS_TAR_HEADER = 0x1000_0000
    HAS_TOC = 0x2000_0000
    CAP_TAR_TOC = 0x4000_0000


RESERVED_BLOB_FEATURES: Final = 0x8000_F000


class Compressor(IntEnum):
    NONE = 0
    LZ4_BLOCK = 1
    GZIP = 2
    ZSTD = 3


class Digester(IntEnum):
    BLAKE3 = 0
    SHA256 = 1


class Cipher(IntEnum):
    NONE = 0
    AES_128_XTS = 1
    AES_256_XTS = 2
    AES_256_GCM = 3


class RowFlag(IntFlag):
    """Bits of a row of the chunk table."""

    COMPRESSED = 0x1
    HOLE = 0x2
    ENCRYPTED = 0x4
    BATCH = 0x8
    HAS_CRC = 0x10


class ChunkFlag(IntFlag):
    """Bits of a V2 chunk info entry."""

    COMPRESSED = 0x1
    ZRAN = 0x2
    BATCH = 0x4
    ENCRYPTED = 0x8
    HAS_CRC = 0x10


LAYOUT_PLAIN: Final = 0
LAYOUT_INLINE: Final = 2
LAYOUT_CHUNKS: Final = 4
FORMAT_EXTENDED: Final = 1  # bit 0 of i_format; the layout is in bits 1-3
CHUNK_FORMAT_INDEXES: Final = 0x20
CHUNK_FORMAT_BITS: Final = 0x1F

TYPE_REGULAR: Final = 1
TYPE_DIRECTORY: Final = 2
TYPE_CHARACTER: Final = 3
TYPE_BLOCK: Final = 4
TYPE_FIFO: Final = 5
TYPE_SOCKET: Final = 6
TYPE_SYMLINK: Final = 7

# By mode >> 12, as in st_mode; 0: the mode has no valid type.
TYPE_OF_MODE: Final = (
    0, TYPE_FIFO, TYPE_CHARACTER, 0, TYPE_DIRECTORY, 0, TYPE_BLOCK, 0,
    TYPE_REGULAR, 0, TYPE_SYMLINK, 0, TYPE_SOCKET, 0, 0, 0,
)

XATTR_PREFIXES: Final[dict[int, bytes]] = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
XATTR_WHOLE_NAMES: Final = frozenset({2, 3})  # no suffix follows

CIPHER_BLOCK: Final = 16  # bytes; shorter pieces are filled up to CIPHER_FILLED before they are encrypted
CIPHER_FILLED: Final = 18

CHUNK_META_MAGIC: Final = 0xB10BB10B
TOC_FLAG_NONE: Final = 1
TOC_FLAG_ZSTD: Final = 2
TOC_FLAG_LZ4: Final = 4
TOC_TAR_NAME: Final = b"rafs.blob.toc"

# Names of sections, in the table of contents and in the tar headers behind them.
SECTION_CHUNKS: Final = b"image.blob"
SECTION_CHUNK_INFO: Final = b"blob.meta"
SECTION_CHUNK_INFO_HEADER: Final = b"blob.meta.header"
SECTION_CHUNK_DIGESTS: Final = b"blob.digest"
SECTION_BOOTSTRAP: Final = b"image.boot"
