"""One blob as the bootstrap's blob table describes it, and the rules such a row must keep.

Not the blob's chunks: those are in its chunk info array (`blob_meta`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NewType

from rafs.counted import counted

from .codes import (
    CHUNK_META_MAGIC,
    MAX_CHUNKS,
    MAX_COMPRESSED_SIZE,
    MAX_UNCOMPRESSED_SIZE,
    RESERVED_BLOB_FEATURES,
    BlobFeature,
    Cipher,
    Compressor,
    Digester,
)
from .errors import FormatInvalid, FormatUnsupported
from .records import (
    CHUNK_INFO_HEADER,
    CHUNK_INFO_V1,
    CHUNK_INFO_V2,
    TAR_HEADER,
    BlobEntry,
    ChunkInfoHeader,
)

if TYPE_CHECKING:
    from .cipher import UnitCipher

BlobIndex = NewType("BlobIndex", int)

_DIGEST = re.compile(r"[0-9a-f]{64}")

_NEEDS_V2 = BlobFeature.BATCH | BlobFeature.ZRAN | BlobFeature.ENCRYPTED
_UNREAD = (
    (BlobFeature.TARFS, "tarfs"),
    (BlobFeature.SEPARATED_WITH_PREFETCH_FILES, "separate prefetch blob"),
    (BlobFeature.IS_CHUNKDICT_GENERATED, "generated chunk dictionary"),
)


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A row of the blob table. Sizes and offsets in bytes."""

    index: BlobIndex
    # 64 lower-case hex digits, or a name that somebody gave it, which can be a file's. A bootstrap embedded
    # in its own blob cannot know the blob's digest: it has 64 times "x".
    id: str
    chunk_size: int
    chunk_count: int
    compressor: Compressor
    digester: Digester
    features: BlobFeature
    compressed_size: int  # of the object, or only up to its last table: not to be taken for the object's size
    uncompressed_size: int  # of the address space
    toc_size: int  # 0: unknown, and so is the digest
    toc_digest: bytes
    ci_compressor: Compressor
    ci_offset: int
    ci_compressed_size: int
    ci_uncompressed_size: int
    meta_digest: bytes = bytes(32)
    meta_size: int = 0
    iv_tail: bytes = bytes(8)
    cipher: Cipher = Cipher.NONE

    @property
    def entry_size(self) -> int:
        """Bytes of one chunk info entry."""
        return CHUNK_INFO_V2.size if self.features & BlobFeature.CHUNK_INFO_V2 else CHUNK_INFO_V1.size

    @property
    def chunks_end(self) -> int:
        """Upper bound of the compressed chunk bytes in the object."""
        if self.features & BlobFeature.SEPARATE or self.is_unplaced:
            return self.compressed_size
        return self.ci_offset - (TAR_HEADER.size if self.features & BlobFeature.HAS_TAR_HEADER else 0)

    @property
    def is_named_by_digest(self) -> bool:
        """Whether the id can be the digest of an object; a registry is asked by nothing else."""
        return _DIGEST.fullmatch(self.id) is not None

    @property
    def is_unplaced(self) -> bool:
        """Whether the row says of the chunk info what cannot be: that it lies where the chunks begin.

        `nydus-image optimize` writes such rows; what is true is only said at the end of the object.
        """
        return not self.ci_offset and not self.features & (BlobFeature.SEPARATE | BlobFeature.TARFS)

    def placed(self, header: ChunkInfoHeader) -> BlobRecord:
        """The row with what the object's own *header* says of the chunk info.

        Raises:
            FormatInvalid: it does not fit the row.
            FormatUnsupported: the chunks are such that the object has neither their bytes nor where they lie.
        """
        if header.magic != CHUNK_META_MAGIC or header.ci_entries != self.chunk_count or not header.ci_offset:
            raise FormatInvalid(
                f"blob {self.id}: where its chunk info is says neither the blob table nor the object's end"
            )
        if self.features & _NEEDS_V2:
            raise FormatUnsupported(
                "optimized image of batch units or of encrypted blobs",
                f"blob {self.id} has its chunks without the units they are in, or without their key",
            )
        try:
            compressor = Compressor(header.ci_compressor)
        except ValueError as error:
            raise FormatInvalid(f"blob {self.id}: unknown algorithm of its chunk info: {error}") from error
        found = replace(
            self,
            features=BlobFeature(header.features) & BlobFeature.CHUNK_INFO_V2 | BlobFeature.ALIGNED,
            toc_size=0,
            ci_compressor=compressor,
            ci_offset=header.ci_offset,
            ci_compressed_size=header.ci_compressed_size,
            ci_uncompressed_size=header.ci_uncompressed_size,
        )
        size = found.entry_size * found.chunk_count
        if found.ci_uncompressed_size != size or found.ci_compressed_size > size:
            raise FormatInvalid(
                f"blob {self.id}: by its header its chunk info has"
                f" {counted(header.ci_uncompressed_size, 'byte')}, "
                f"{header.ci_compressed_size} compressed; {self.chunk_count} chunks need {size}"
            )
        return found

    def unread_feature(self) -> str | None:
        """The name of what keeps this package from reading the blob's chunks; None if it can."""
        for feature, name in _UNREAD:
            if self.features & feature:
                return name
        if self.compressor is Compressor.GZIP and not self.features & BlobFeature.CHUNK_INFO_V2:
            return "eStargz reference"
        if self.cipher not in (Cipher.NONE, Cipher.AES_128_XTS):
            return f"cipher {self.cipher.name}"
        return None

    @property
    def meta_object(self) -> str:
        """The id of the object with the blob's tables: the blob itself, but for references to tar layers."""
        if self.features & BlobFeature.SEPARATE and any(self.meta_digest):
            return self.meta_digest.hex()
        return self.id

    @property
    def digests_offset(self) -> int | None:
        """Where the object with the tables has the chunk digests; None: it has none."""
        if not self.features & BlobFeature.INLINED_CHUNK_DIGEST or self.is_unplaced:
            return None
        end = self.ci_offset + self.ci_compressed_size + CHUNK_INFO_HEADER.size
        return end + (TAR_HEADER.size if self.features & BlobFeature.HAS_TAR_HEADER else 0)

    def unit_cipher(self) -> UnitCipher | None:
        """What decrypts the blob's pieces; None if they are plain."""
        if self.cipher is Cipher.NONE:
            return None
        # Here: most images have none, and a mount waits for every module.
        from .cipher import UnitCipher

        return UnitCipher(self.meta_digest, self.meta_size.to_bytes(8, "little") + self.iv_tail)

    def entry(self) -> BlobEntry:
        """The row as it is stored."""
        return BlobEntry(
            blob_id=self.id.encode(),
            blob_index=self.index,
            chunk_size=self.chunk_size,
            chunk_count=self.chunk_count,
            compressor=self.compressor,
            digester=self.digester,
            features=self.features,
            compressed_size=self.compressed_size,
            uncompressed_size=self.uncompressed_size,
            toc_size=self.toc_size,
            ci_compressor=self.ci_compressor,
            ci_offset=self.ci_offset,
            ci_compressed_size=self.ci_compressed_size,
            ci_uncompressed_size=self.ci_uncompressed_size,
            toc_digest=self.toc_digest,
            meta_digest=self.meta_digest,
            meta_size=self.meta_size,
            iv_tail=self.iv_tail,
            cipher=self.cipher,
        )


def blob_record(entry: BlobEntry) -> BlobRecord:
    """The row as a value.

    Raises:
        FormatInvalid: a number in it has no meaning, or the id is not one.
    """
    blob_id = _blob_id(entry.blob_id)
    try:
        return BlobRecord(
            index=BlobIndex(entry.blob_index),
            id=blob_id,
            chunk_size=entry.chunk_size,
            chunk_count=entry.chunk_count,
            compressor=Compressor(entry.compressor),
            digester=Digester(entry.digester),
            features=BlobFeature(entry.features),
            compressed_size=entry.compressed_size,
            uncompressed_size=entry.uncompressed_size,
            toc_size=entry.toc_size,
            toc_digest=entry.toc_digest,
            ci_compressor=Compressor(entry.ci_compressor),
            ci_offset=entry.ci_offset,
            ci_compressed_size=entry.ci_compressed_size,
            ci_uncompressed_size=entry.ci_uncompressed_size,
            meta_digest=entry.meta_digest,
            meta_size=entry.meta_size,
            iv_tail=entry.iv_tail,
            cipher=Cipher(entry.cipher),
        )
    except ValueError as error:
        raise FormatInvalid(f"blob table entry has an unknown algorithm: {error}") from error


def _blob_id(stored: bytes) -> str:
    try:
        found = stored.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        found = ""
    # It becomes a file's name, and part of messages.
    if found in ("", ".", "..") or "/" in found or not found.isprintable():
        raise FormatInvalid(f"blob id is {stored!r}, expected 64 hex digits or what can be a file's name")
    return found


def broken_rules(record: BlobRecord, chunk_size: int) -> Iterator[tuple[str, str]]:
    """Yield (rule, message) for each rule the row breaks; *chunk_size* is the image's."""
    features = record.features
    tarfs = bool(features & BlobFeature.TARFS)
    unchecked = bool(features & (BlobFeature.TARFS | BlobFeature.IS_CHUNKDICT_GENERATED))
    if record.chunk_size != chunk_size:
        yield "blob-chunk-size", f"chunk size is {record.chunk_size}, the image's is {chunk_size}"
    if not 0 < record.chunk_count <= MAX_CHUNKS + 1 and not unchecked:
        yield "blob-chunk-count", f"{record.chunk_count} chunks, expected 1 to {MAX_CHUNKS + 1}"
    if features & RESERVED_BLOB_FEATURES:
        yield "blob-features", f"features {features:#x} use reserved bits"
    if bool(features & BlobFeature.ALIGNED) == tarfs:
        yield "blob-aligned", f"features {features:#x}: ALIGNED must be set, except for tarfs"
    if record.compressed_size > MAX_COMPRESSED_SIZE or record.uncompressed_size > MAX_UNCOMPRESSED_SIZE:
        yield (
            "blob-size",
            f"{record.compressed_size} bytes compressed, {record.uncompressed_size} not: beyond the format",
        )
    if record.ci_compressed_size > record.ci_uncompressed_size:
        yield (
            "blob-ci-size",
            f"chunk info has {counted(record.ci_compressed_size, 'byte')}, uncompressed"
            f" {record.ci_uncompressed_size}",
        )
    needs_v2 = features & _NEEDS_V2
    if needs_v2 and not features & BlobFeature.CHUNK_INFO_V2:
        yield "blob-needs-v2", f"features {features:#x} need CHUNK_INFO_V2"
    expected = record.entry_size * record.chunk_count
    found = record.ci_uncompressed_size
    if not unchecked and not record.is_unplaced and (found < expected or (found > expected and not needs_v2)):
        has = f"chunk info has {counted(found, 'byte')}"
        yield "blob-ci-size", f"{has}, {record.chunk_count} chunks need {expected}"
    encrypted = bool(features & BlobFeature.ENCRYPTED)
    if encrypted != (record.cipher is not Cipher.NONE) or (encrypted and not any(record.meta_digest)):
        yield (
            "blob-cipher",
            f"cipher {record.cipher.name}, features {features:#x}: they must agree, with a key",
        )
