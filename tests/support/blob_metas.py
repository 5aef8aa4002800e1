"""Chunk info of made-up blobs, in both versions, and the stored bytes of their units.

An encoder of its own, so that the reader is not proved by the writer: it is slow and says each field.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import lz4.block  # type: ignore[import-untyped]
import zstandard
from blake3 import blake3

from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobIndex, BlobRecord
from rafs.chunk_info import ChunkInfo, encode_v1, encode_v2
from rafs.codes import BlobFeature, ChunkFlag, Compressor, Digester
from rafs.records import (
    BATCH_CONTEXT,
    CHUNK_INFO_HEADER,
    CHUNK_INFO_V1,
    CHUNK_INFO_V2,
    BatchContext,
    ChunkInfoHeader,
)

CHUNK_SIZE = 1 << 20


@dataclass(frozen=True)
class MadeBlob:
    """A blob: its row, its chunk info, its digests, its stored units."""

    record: BlobRecord
    array: bytes
    digests: bytes
    stored: tuple[bytes, ...]

    @property
    def meta(self) -> BlobMeta:
        return BlobMeta(self.record, self.array, self.digests)

    @property
    def cache_form(self) -> bytes:
        record = self.record
        entries = CHUNK_INFO_V2.size * record.chunk_count
        contexts = bool(record.features & (BlobFeature.BATCH | BlobFeature.ZRAN))
        header = ChunkInfoHeader(
            features=record.features,
            ci_compressor=record.ci_compressor,
            ci_entries=record.chunk_count,
            ci_offset=record.ci_offset,
            ci_compressed_size=record.ci_compressed_size,
            ci_uncompressed_size=record.ci_uncompressed_size,
            context_offset=entries if contexts else 0,
            context_size=len(self.array) - entries if contexts else 0,
            context_count=(len(self.array) - entries) // BATCH_CONTEXT.size if contexts else 0,
        )
        return self.array + bytes(-len(self.array) % 4096) + CHUNK_INFO_HEADER.pack(header)

    def with_array(self, array: bytes) -> MadeBlob:
        """The same with another array, for refusals."""
        return replace(self, array=array)


def compress(compressor: Compressor, content: bytes) -> bytes:
    """The stored form of one unit; *content* itself if that is not larger."""
    if compressor is Compressor.ZSTD:
        stored = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)
    elif compressor is Compressor.LZ4_BLOCK:
        stored = lz4.block.compress(content, store_size=False)
    elif compressor is Compressor.GZIP:
        packer = zlib.compressobj(wbits=31)
        stored = packer.compress(content) + packer.flush()
    else:
        stored = content
    return stored if len(stored) < len(content) else content


def batch_blob(units: Sequence[Sequence[bytes]], compressor: Compressor = Compressor.ZSTD) -> MadeBlob:
    """A blob whose every chunk is a member of a batch unit."""
    chunks: list[ChunkInfo] = []
    contexts: list[BatchContext] = []
    stored: list[bytes] = []
    offset = place = 0
    for number, unit in enumerate(units):
        packed = compress(compressor, b"".join(unit))
        fill = 0
        for chunk in unit:
            flags = ChunkFlag.BATCH | ChunkFlag.COMPRESSED
            chunks.append(ChunkInfo(offset, len(chunk), place, 0, flags, number, fill))
            fill += len(chunk)
            offset += len(chunk) + -len(chunk) % 4096
        contexts.append(BatchContext(compressed_size=len(packed), size=fill))
        stored.append(packed)
        place += len(packed)
    array = b"".join(CHUNK_INFO_V2.pack(encode_v2(chunk)) for chunk in chunks)
    array += b"".join(BATCH_CONTEXT.pack(context) for context in contexts)
    features = BlobFeature.ALIGNED | BlobFeature.CHUNK_INFO_V2 | BlobFeature.BATCH
    content = [chunk for unit in units for chunk in unit]
    return _blob(array, content, stored, offset, compressor, Digester.BLAKE3, features)


def plain_blob(
    content: Sequence[bytes],
    compressor: Compressor = Compressor.ZSTD,
    *,
    version: int = 1,
    checksum: Callable[[bytes], int] | None = None,
    digester: Digester = Digester.BLAKE3,
) -> MadeBlob:
    """A blob whose every chunk is compressed by itself."""
    chunks: list[ChunkInfo] = []
    stored: list[bytes] = []
    offset = place = 0
    for chunk in content:
        packed = compress(compressor, chunk)
        flags = ChunkFlag.COMPRESSED if packed is not chunk else ChunkFlag(0)
        if checksum is not None and version == 2:
            flags |= ChunkFlag.HAS_CRC
        crc = checksum(chunk) if checksum is not None else 0
        chunks.append(ChunkInfo(offset, len(chunk), place, len(packed), flags, crc32c=crc))
        stored.append(packed)
        offset += len(chunk) + -len(chunk) % 4096
        place += len(packed)
    if version == 1:
        array = b"".join(CHUNK_INFO_V1.pack(encode_v1(chunk)) for chunk in chunks)
        features = BlobFeature.ALIGNED
    else:
        array = b"".join(CHUNK_INFO_V2.pack(encode_v2(chunk)) for chunk in chunks)
        features = BlobFeature.ALIGNED | BlobFeature.CHUNK_INFO_V2
    return _blob(array, content, stored, offset, compressor, digester, features)


def sized_blob(units: Sequence[Sequence[tuple[bytes, int]]]) -> BlobMeta:
    """Batch units of chunks that are only (digest, size): for arithmetic, nothing can be decoded."""
    chunks: list[ChunkInfo] = []
    contexts: list[BatchContext] = []
    offset = place = 0
    for number, unit in enumerate(units):
        fill = 0
        for _, size in unit:
            chunks.append(ChunkInfo(offset, size, place, 0, ChunkFlag.BATCH, number, fill))
            fill += size
            offset += size + -size % 4096
        contexts.append(BatchContext(compressed_size=fill, size=fill))
        place += fill
    array = b"".join(CHUNK_INFO_V2.pack(encode_v2(chunk)) for chunk in chunks)
    array += b"".join(BATCH_CONTEXT.pack(context) for context in contexts)
    digests = b"".join(digest for unit in units for digest, _ in unit)
    features = BlobFeature.ALIGNED | BlobFeature.CHUNK_INFO_V2 | BlobFeature.BATCH
    record = _record(array, len(chunks), place, offset, Compressor.ZSTD, Digester.BLAKE3, features)
    return BlobMeta(record, array, digests)


def _blob(
    array: bytes,
    content: Sequence[bytes],
    stored: Sequence[bytes],
    uncompressed_size: int,
    compressor: Compressor,
    digester: Digester,
    features: BlobFeature,
) -> MadeBlob:
    from hashlib import sha256

    hashed = [
        sha256(chunk).digest() if digester is Digester.SHA256 else blake3(chunk).digest() for chunk in content
    ]
    end = sum(len(piece) for piece in stored)
    record = _record(array, len(content), end, uncompressed_size, compressor, digester, features)
    return MadeBlob(record, array, b"".join(hashed), tuple(stored))


def _record(
    array: bytes,
    chunk_count: int,
    end: int,
    uncompressed_size: int,
    compressor: Compressor,
    digester: Digester,
    features: BlobFeature,
) -> BlobRecord:
    return BlobRecord(
        index=BlobIndex(0),
        id="ab" * 32,
        chunk_size=CHUNK_SIZE,
        chunk_count=chunk_count,
        compressor=compressor,
        digester=digester,
        features=features,
        compressed_size=end,
        uncompressed_size=uncompressed_size,
        toc_size=0,
        toc_digest=bytes(32),
        ci_compressor=Compressor.NONE,
        ci_offset=end,
        ci_compressed_size=len(array),
        ci_uncompressed_size=len(array),
    )
