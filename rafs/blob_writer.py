"""Makes a blob object: units of compressed chunks, then the tables that find and verify them.

No I/O: each call returns the bytes that come next in the object, and the caller puts them where it likes.
Neither is it decided here which chunks are stored (the builder finds duplicates) nor where a unit ends
(`unit_cutter`). Compression is a function of its own, so that many threads can do it for one writer.

The object, in order; tar headers stand behind what they describe, which lets it be read from its end:

    units, [image.blob] chunk info array, its header, [blob.meta] digests, [blob.digest] TOC, [rafs.blob.toc]
"""

from __future__ import annotations

import hashlib
import struct
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from .chunk_info import ChunkInfo, encode_v2
from .codes import (
    BLOCK,
    MAX_CHUNK_SIZE,
    MAX_CHUNKS,
    MAX_COMPRESSED_SIZE,
    MAX_UNCOMPRESSED_SIZE,
    SECTION_CHUNK_DIGESTS,
    SECTION_CHUNK_INFO,
    SECTION_CHUNK_INFO_HEADER,
    SECTION_CHUNKS,
    TOC_FLAG_NONE,
    TOC_FLAG_ZSTD,
    TOC_TAR_NAME,
    ChunkFlag,
    Compressor,
)
from .defaults import COMPRESSION_LEVEL
from .digests import chunk_digest
from .errors import ImageTooLarge
from .finished_blob import FinishedBlob, chunk_info_header
from .records import BATCH_CONTEXT, TAR_HEADER, TOC_ENTRY, BatchContext, TarHeader, TocEntry

# The flags of a member are always these two, even where the unit is raw: readers compare the context's sizes.
_MEMBER_FLAGS = ChunkFlag.COMPRESSED | ChunkFlag.BATCH


class _Compressors(threading.local):
    """Compressors of this thread, one per level, kept because making one costs 6 % of compressing a unit.

    Each call of `compress` starts anew, so a kept one gives the same bytes as a fresh one.
    """

    def __init__(self) -> None:
        self._by_level: dict[int, zstandard.ZstdCompressor] = {}

    def of(self, level: int) -> zstandard.ZstdCompressor:
        made = self._by_level.get(level)
        if made is None:
            made = self._by_level[level] = zstandard.ZstdCompressor(level=level, write_checksum=True)
        return made


_compressors = _Compressors()


@dataclass(frozen=True, slots=True)
class PackedUnit:
    """One unit, ready to be stored."""

    payload: bytes  # raw if it has as many bytes as the chunks, else one zstd frame
    sizes: Sequence[int]  # bytes per chunk
    digests: bytes  # 32 per chunk


def pack_unit(
    chunks: Sequence[bytes], digests: Sequence[bytes] | None = None, *, level: int = COMPRESSION_LEVEL
) -> PackedUnit:
    """Compress *chunks* as one unit. Depends on nothing else; safe from any thread, and lets others run.

    *digests* are the `chunk_digest`s if the caller has them already. The frame carries size and checksum of
    its content. Equal arguments give equal bytes with one version of libzstd.
    """
    if digests is None:
        digests = [chunk_digest(chunk) for chunk in chunks]
    assert chunks and len(chunks) == len(digests)
    return pack_content(b"".join(chunks), tuple(map(len, chunks)), b"".join(digests), level=level)


def pack_content(
    content: bytes, sizes: Sequence[int], digests: bytes, *, level: int = COMPRESSION_LEVEL
) -> PackedUnit:
    """As `pack_unit`, of chunks that lie one behind the other in *content*; *digests*: 32 bytes for each."""
    payload = _compressors.of(level).compress(content)
    if len(payload) >= len(content):
        payload = content
    return PackedUnit(payload, sizes, digests)


class BlobWriter:
    """Writes one blob object. Not thread-safe; keeps 64 bytes per chunk and no content.

    Chunks are numbered from 0 in the order in which they are added, across units, so a caller may refer to a
    chunk before its unit has been compressed.
    """

    def __init__(self, *, chunk_size: int) -> None:
        """*chunk_size*: the largest a chunk may be, in bytes; the same for all blobs of an image."""
        assert BLOCK <= chunk_size <= MAX_CHUNK_SIZE
        self._chunk_size = chunk_size
        self._hash = hashlib.sha256()
        self._position = 0
        self._address = 0
        self._units = 0
        self._chunk_info = bytearray()
        self._contexts = bytearray()
        self._digests = bytearray()
        self._blocks = array("I")
        self._sizes = array("I")

    @property
    def chunk_count(self) -> int:
        """How many chunks have been added; the index of the next one."""
        return len(self._sizes)

    def add_unit(self, unit: PackedUnit) -> bytes:
        """The bytes to append to the object for *unit*.

        Raises:
            ImageTooLarge: the blob has 2**24 chunks, 1 TiB compressed or 16 TiB not compressed.
        """
        self._check_room(unit)
        assert min(unit.sizes) > 0 and max(unit.sizes) <= self._chunk_size
        block = first_block = self._address // BLOCK
        # Entries of one unit differ by sums, since no field that differs overflows into another; encoding
        # each of them anew takes ten times as long.
        first = encode_v2(
            ChunkInfo(
                offset=self._address,
                size=1,
                compressed_offset=self._position,
                compressed_size=0,
                flags=_MEMBER_FLAGS,
                context=self._units,
                context_offset=0,
            )
        )
        words: list[int] = []
        member_offset = 0
        for size in unit.sizes:
            words += (first.u0 + (size - 1 << 32) + block - first_block, first.u1, first.u2 + member_offset)
            self._blocks.append(block)
            member_offset += size
            block += -(-size // BLOCK)
        self._chunk_info += struct.pack(f"<{len(words)}Q", *words)
        self._address = block * BLOCK
        self._sizes.extend(unit.sizes)
        self._digests += unit.digests
        self._contexts += BATCH_CONTEXT.pack(BatchContext(len(unit.payload), member_offset))
        self._units += 1
        return self._written(unit.payload)

    def finish(self) -> tuple[bytes, FinishedBlob]:
        """The rest of the object, and what a bootstrap needs to know of it. The writer is used up then."""
        tail = bytearray()
        toc = bytearray()
        tail += self._written(tar_header(SECTION_CHUNKS, self._position))
        toc += TOC_ENTRY.pack(
            TocEntry(
                TOC_FLAG_NONE,
                name=SECTION_CHUNKS,
                # Unlike the other sections', this digest includes the tar header.
                digest=self._hash.digest(),
                compressed_size=self._position - TAR_HEADER.size,
                size=self._address,
            )
        )
        chunk_info = bytes(self._chunk_info + self._contexts)
        ci_offset = self._position
        stored, ci_compressor = _smaller(chunk_info)
        # A blob without chunks has no tables: readers refuse empty ones.
        if chunk_info:
            header = chunk_info_header(
                self.chunk_count, len(chunk_info), ci_compressor, ci_offset, len(stored)
            )
            toc += self._toc_entry(SECTION_CHUNK_INFO, chunk_info, stored)
            tail += self._written(stored)
            toc += self._toc_entry(SECTION_CHUNK_INFO_HEADER, header, header)
            tail += self._written(header + tar_header(SECTION_CHUNK_INFO, len(stored) + len(header)))
            digests = bytes(self._digests)
            toc += self._toc_entry(SECTION_CHUNK_DIGESTS, digests, digests)
            tail += self._written(digests + tar_header(SECTION_CHUNK_DIGESTS, len(digests)))
        toc += tar_header(TOC_TAR_NAME, len(toc))
        tail += self._written(bytes(toc))
        return bytes(tail), FinishedBlob(
            id=self._hash.hexdigest(),
            object_size=self._position,
            chunk_size=self._chunk_size,
            uncompressed_size=self._address,
            toc_size=len(toc),
            toc_digest=hashlib.sha256(toc).digest(),
            ci_compressor=ci_compressor,
            ci_offset=ci_offset,
            ci_compressed_size=len(stored),
            chunk_info=chunk_info,
            digests=bytes(self._digests),
            blocks=self._blocks,
            sizes=self._sizes,
        )

    def _check_room(self, unit: PackedUnit) -> None:
        padded = sum(size + -size % BLOCK for size in unit.sizes)
        for what, found, limit in (
            ("chunks", self.chunk_count + len(unit.sizes), MAX_CHUNKS),
            ("bytes of compressed units", self._position + len(unit.payload), MAX_COMPRESSED_SIZE - 1),
            ("bytes of chunks", self._address + padded, MAX_UNCOMPRESSED_SIZE),
        ):
            if found > limit:
                raise ImageTooLarge(f"one blob would get {found} {what}; the format has room for {limit}")

    def _toc_entry(self, name: bytes, content: bytes | bytearray, stored: bytes | bytearray) -> bytes:
        return TOC_ENTRY.pack(
            TocEntry(
                TOC_FLAG_NONE if len(stored) == len(content) else TOC_FLAG_ZSTD,
                name=name,
                digest=hashlib.sha256(content).digest(),
                compressed_offset=self._position,
                compressed_size=len(stored),
                size=len(content),
            )
        )

    def _written(self, piece: bytes) -> bytes:
        self._hash.update(piece)
        self._position += len(piece)
        return piece


def tar_header(name: bytes, size: int) -> bytes:
    """The 512 bytes that end a section of *size* bytes: GNU form, no mode, owner or time."""
    octal = b"%011o" % size
    # Eleven octal digits end at 8 GiB; from there on GNU's binary form.
    field = octal if len(octal) == 11 else b"\x80" + size.to_bytes(11, "big")
    blank = TarHeader(name=name, size=field, checksum=b" " * 8)
    return TAR_HEADER.pack(blank._replace(checksum=b"%07o" % sum(TAR_HEADER.pack(blank))))


def _smaller(table: bytes) -> tuple[bytes, Compressor]:
    packed = _compressors.of(COMPRESSION_LEVEL).compress(table)
    return (packed, Compressor.ZSTD) if len(packed) < len(table) else (table, Compressor.NONE)
