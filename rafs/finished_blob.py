"""A blob that has been written: what a bootstrap must say about it, and where its chunks are.

Not the bytes of the blob object, which went to the caller while it was written (`blob_writer`), and not a way
to read chunks (`blob_meta`). It serves `bootstrap_writer` and whoever publishes the blob. 64 bytes per chunk.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from .blob_record import BlobIndex, BlobRecord
from .codes import BLOCK, DIGEST_SIZE, BlobFeature, Compressor, Digester
from .records import BATCH_CONTEXT, CHUNK_INFO_HEADER, CHUNK_INFO_V2, ChunkInfoHeader

# What is written here and by nobody else: every chunk is a member of a batch unit.
FEATURES = (
    BlobFeature.ALIGNED
    | BlobFeature.CHUNK_INFO_V2
    | BlobFeature.INLINED_CHUNK_DIGEST
    | BlobFeature.BATCH
    | BlobFeature.HAS_TAR_HEADER
    | BlobFeature.HAS_TOC
    | BlobFeature.CAP_TAR_TOC
)


@dataclass(frozen=True, slots=True, eq=False)
class FinishedBlob:
    """Immutable; safe from any thread. Offsets and sizes in bytes."""

    id: str  # 64 lower-case hex digits: sha256 of the whole object
    object_size: int
    chunk_size: int  # the largest a chunk may be
    uncompressed_size: int  # of the address space, multiple of 4096
    toc_size: int
    toc_digest: bytes
    ci_compressor: Compressor
    ci_offset: int
    ci_compressed_size: int
    chunk_info: bytes  # uncompressed: an entry per chunk, then a context per unit
    digests: bytes  # 32 per chunk
    blocks: array[int]  # per chunk: offset in the address space / 4096
    sizes: array[int]  # per chunk

    @property
    def chunk_count(self) -> int:
        return len(self.sizes)

    def digest(self, chunk_index: int) -> bytes:
        return self.digests[chunk_index * DIGEST_SIZE : (chunk_index + 1) * DIGEST_SIZE]

    def offset(self, chunk_index: int) -> int:
        """Where the chunk lies in the uncompressed address space."""
        return self.blocks[chunk_index] * BLOCK

    def record(self, blob_index: int) -> BlobRecord:
        """The blob as the blob table describes it at position *blob_index*. The blob must have chunks."""
        assert self.chunk_count > 0, "a blob without chunks makes an image unusable"
        return BlobRecord(
            index=BlobIndex(blob_index),
            id=self.id,
            chunk_size=self.chunk_size,
            chunk_count=self.chunk_count,
            compressor=Compressor.ZSTD,
            digester=Digester.BLAKE3,
            features=FEATURES,
            compressed_size=self.object_size,
            uncompressed_size=self.uncompressed_size,
            toc_size=self.toc_size,
            toc_digest=self.toc_digest,
            ci_compressor=self.ci_compressor,
            ci_offset=self.ci_offset,
            ci_compressed_size=self.ci_compressed_size,
            ci_uncompressed_size=len(self.chunk_info),
        )

    def cache_form(self) -> bytes:
        """The `blob.meta` file of a cache: the chunk info array, padded to 4096 bytes, and its header."""
        padding = bytes(-len(self.chunk_info) % BLOCK)
        header = chunk_info_header(
            self.chunk_count,
            len(self.chunk_info),
            self.ci_compressor,
            self.ci_offset,
            self.ci_compressed_size,
        )
        return self.chunk_info + padding + header


def chunk_info_header(
    chunk_count: int, size: int, compressor: Compressor, offset: int, compressed_size: int
) -> bytes:
    """The 4096 bytes behind an array of *size* bytes, stored at *offset* in *compressed_size* bytes."""
    context_offset = chunk_count * CHUNK_INFO_V2.size
    return CHUNK_INFO_HEADER.pack(
        ChunkInfoHeader(
            features=FEATURES,
            ci_compressor=compressor,
            ci_entries=chunk_count,
            ci_offset=offset,
            ci_compressed_size=compressed_size,
            ci_uncompressed_size=size,
            context_offset=context_offset,
            context_size=size - context_offset,
            context_count=(size - context_offset) // BATCH_CONTEXT.size,
        )
    )
