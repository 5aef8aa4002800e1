"""From stored bytes to verified chunks: a whole unit at once, or chunk by chunk while its bytes arrive.

Nothing leaves here before its digest was compared. Both ways give the same chunks or raise the same error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafs.counted import counted

from .blob_meta import BlobMeta, Chunk, Unit
from .codes import Compressor
from .decompress import ZstdStream, decompress
from .digests import digest_of as digest_of
from .errors import ChunkInvalid

if TYPE_CHECKING:
    from .inflate_index import InflateStream


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
        found = _unpack(meta, unit, compressed)
    except ChunkInvalid as error:
        raise ChunkInvalid(f"{_name(meta, unit)}: {error}") from error
    view = memoryview(found)
    chunks = list(map(meta.chunk, range(unit.first_chunk, unit.first_chunk + unit.chunk_count)))
    holes = meta.holes
    for chunk in chunks:
        if not (holes and holes[chunk.index]):
            verify_chunk(meta, chunk, view[chunk.unit_offset : chunk.unit_offset + chunk.size])
    if not holes and meta.inflate_point(unit) is None:
        return found
    # Between the files of a tar are their headers; elsewhere the chunks are all there is.
    return b"".join(
        bytes(chunk.size)
        if holes and holes[chunk.index]
        else view[chunk.unit_offset : chunk.unit_offset + chunk.size]
        for chunk in chunks
    )


def verify_chunk(meta: BlobMeta, chunk: Chunk, content: bytes | memoryview) -> None:
    """Return if *content* is the chunk.

    Raises:
        ChunkInvalid: it has another size or digest.
    """
    found = digest_of(meta.digester)(content)
    if found != chunk.digest or len(content) != chunk.size:
        raise ChunkInvalid(
            f"chunk {chunk.index} of blob {meta.id}: {counted(len(content), 'byte')} with"
            f" {meta.digester.name.lower()}"
            f" {found.hex()}, expected {chunk.size} with {chunk.digest.hex()}"
        )


def _unpack(meta: BlobMeta, unit: Unit, stored: bytes | bytearray | memoryview) -> bytes:
    """All that *stored* is the stored form of; nothing of it is verified."""
    raw = unit.raw
    if meta.cipher is not None:
        stored = meta.cipher.decrypt(stored, unit.uncompressed_size if raw else None)
        # Of a batch unit that was filled up before it was encrypted the two sizes do not tell it is raw.
        raw = raw or len(stored) == unit.uncompressed_size
    point = meta.inflate_point(unit)
    if point is not None:
        from .inflate_index import inflate

        return inflate(point, bytes(stored))
    return decompress(Compressor.NONE if raw else meta.compressor, stored, unit.uncompressed_size)


class UnitDecoder:
    """One unit, decoded while its stored bytes arrive in order. Not thread-safe; of no use after an error.

    zstd, ZRAN and raw units give each chunk as soon as its last byte is there; the others, and encrypted
    ones, give all at the end.
    """

    def __init__(self, meta: BlobMeta, unit: Unit) -> None:
        self._meta = meta
        self._unit = unit
        self._received = 0
        self._next = unit.first_chunk
        self._decoded = bytearray()  # what is decoded and was not taken yet
        self._taken = 0  # bytes of the unit before it
        self._stored = bytearray()  # what has to wait for the rest
        self._as_it_comes = unit.raw and meta.cipher is None
        self._stream: ZstdStream | InflateStream | None = None
        if unit.raw or meta.cipher is not None:
            return
        point = meta.inflate_point(unit)
        if point is not None:
            # Here: most images have none, and a mount waits for every module.
            from .inflate_index import InflateStream

            self._stream = InflateStream(point)
        elif meta.compressor is Compressor.ZSTD:
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
            raise ChunkInvalid(
                f"{_name(self._meta, self._unit)}: {counted(-self.missing, 'byte')} more than expected"
            )
        last = self.missing == 0
        if self._stream is not None:
            try:
                self._decoded += self._stream.feed(piece, last=last)
            except ChunkInvalid as error:
                raise ChunkInvalid(f"{_name(self._meta, self._unit)}: {error}") from error
        elif self._as_it_comes:
            self._decoded += piece
        else:
            self._stored += piece
            if not last:
                return []
            try:
                self._decoded += _unpack(self._meta, self._unit, self._stored)
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
        holes = self._meta.holes
        while self._next < self._unit.first_chunk + self._unit.chunk_count:
            chunk = self._meta.chunk(self._next)
            begin = chunk.unit_offset - self._taken
            end = begin + chunk.size
            if len(self._decoded) < end:
                break
            if holes and holes[self._next]:
                content = bytes(chunk.size)
            else:
                content = bytes(memoryview(self._decoded)[begin:end])
                verify_chunk(self._meta, chunk, content)
            found.append((chunk, content))
            taken = end
            self._next += 1
        del self._decoded[:taken]
        self._taken += taken
        return found


def _name(meta: BlobMeta, unit: Unit) -> str:
    return f"unit at {unit.compressed_offset} of blob {meta.id}"
