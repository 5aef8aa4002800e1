"""From stored bytes to verified chunks: a whole unit at once, or chunk by chunk while its bytes arrive.

Nothing leaves here before its digest was compared. Both ways give the same chunks or raise the same error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from blake3 import blake3

from .blob_meta import BlobMeta, Chunk, Unit
from .codes import Compressor, Digester
from .decompress import ZstdStream, decompress
from .errors import ChunkInvalid


def digest_of(digester: Digester) -> Callable[[bytes | memoryview], bytes]:
    """The function from bytes to their 32-byte digest. Any thread; the GIL is free during large pieces."""
    return _sha256 if digester is Digester.SHA256 else _blake3


def decode_unit(meta: BlobMeta, unit: Unit, compressed: bytes | memoryview) -> bytes:
    """The chunks of *unit*, one after the other without padding, each verified; any thread.

    Raises:
        ChunkInvalid: *compressed* is not the unit's stored form, or a chunk does not match its digest.
    """
    if len(compressed) != unit.compressed_size:
        raise ChunkInvalid(
            f"{_name(meta, unit)}: {len(compressed)} stored bytes, expected {unit.compressed_size}"
        )
    try:
        found = decompress(
            Compressor.NONE if unit.raw else meta.compressor, compressed, unit.uncompressed_size
        )
    except ChunkInvalid as error:
        raise ChunkInvalid(f"{_name(meta, unit)}: {error}") from error
    view = memoryview(found)
    for index in range(unit.first_chunk, unit.first_chunk + unit.chunk_count):
        chunk = meta.chunk(index)
        verify_chunk(meta, chunk, view[chunk.unit_offset : chunk.unit_offset + chunk.size])
    return found


def verify_chunk(meta: BlobMeta, chunk: Chunk, content: bytes | memoryview) -> None:
    """Return if *content* is the chunk.

    Raises:
        ChunkInvalid: it has another size or digest.
    """
    found = digest_of(meta.digester)(content)
    if found != chunk.digest or len(content) != chunk.size:
        raise ChunkInvalid(
            f"chunk {chunk.index} of blob {meta.id}: {len(content)} bytes with {meta.digester.name.lower()}"
            f" {found.hex()}, expected {chunk.size} with {chunk.digest.hex()}"
        )


class UnitDecoder:
    """One unit, decoded while its stored bytes arrive in order. Not thread-safe; of no use after an error.

    zstd and raw units give each chunk as soon as its last byte is there; the others give all at the end.
    """

    def __init__(self, meta: BlobMeta, unit: Unit) -> None:
        self._meta = meta
        self._unit = unit
        self._received = 0
        self._next = unit.first_chunk
        self._decoded = bytearray()  # what is decoded and belongs to the next chunk
        self._stored = bytearray()  # what has to wait for the rest
        self._stream: ZstdStream | None = None
        if not unit.raw and meta.compressor is Compressor.ZSTD:
            self._stream = ZstdStream(unit.uncompressed_size)

    @property
    def missing(self) -> int:
        """Stored bytes that are still to come."""
        return self._unit.compressed_size - self._received

    def feed(self, piece: bytes) -> list[tuple[Chunk, bytes]]:
        """The chunks that are complete and verified with the next stored bytes *piece*, in order.

        Raises:
            ChunkInvalid: the bytes cannot be the unit's, or are more than it has.
        """
        self._received += len(piece)
        if self.missing < 0:
            raise ChunkInvalid(f"{_name(self._meta, self._unit)}: {-self.missing} bytes more than expected")
        last = self.missing == 0
        if self._stream is not None:
            try:
                self._decoded += self._stream.feed(piece, last=last)
            except ChunkInvalid as error:
                raise ChunkInvalid(f"{_name(self._meta, self._unit)}: {error}") from error
        elif self._unit.raw:
            self._decoded += piece
        else:
            self._stored += piece
            if not last:
                return []
            try:
                self._decoded += decompress(self._meta.compressor, self._stored, self._unit.uncompressed_size)
            except ChunkInvalid as error:
                raise ChunkInvalid(f"{_name(self._meta, self._unit)}: {error}") from error
        return self._take()

    def finish(self) -> None:
        """Return if the unit has been given completely.

        Raises:
            ChunkInvalid: stored bytes are missing.
        """
        if self.missing:
            raise ChunkInvalid(
                f"{_name(self._meta, self._unit)}: {self.missing} of {self._unit.compressed_size} missing"
            )

    def _take(self) -> list[tuple[Chunk, bytes]]:
        found: list[tuple[Chunk, bytes]] = []
        taken = 0
        while self._next < self._unit.first_chunk + self._unit.chunk_count:
            chunk = self._meta.chunk(self._next)
            if len(self._decoded) < taken + chunk.size:
                break
            content = bytes(memoryview(self._decoded)[taken : taken + chunk.size])
            verify_chunk(self._meta, chunk, content)
            found.append((chunk, content))
            taken += chunk.size
            self._next += 1
        del self._decoded[:taken]
        return found


def _name(meta: BlobMeta, unit: Unit) -> str:
    return f"unit at {unit.compressed_offset} of blob {meta.id}"


def _blake3(content: bytes | memoryview) -> bytes:
    digest: bytes = blake3(content).digest()
    return digest


def _sha256(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()
