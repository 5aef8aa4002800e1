"""Decompression of one piece whose size is known beforehand, bounded by that size.

Nothing here trusts the piece: no more memory is taken than the promised size needs, whatever a header inside
says, and every failure of a library is a `ChunkInvalid`. Digests are the callers' business.
"""

from __future__ import annotations

import threading
import zlib
from typing import Final

import zstandard

from rafs.counted import counted

from .codes import Compressor
from .errors import ChunkInvalid

# Levels up to 19 use windows of at most 8 MiB; a frame that asks for more is no unit of an image.
MAX_WINDOW: Final = 8 << 20

_FRAME_HEADER_MAX: Final = 18
_BLOCK_HEADER: Final = 3
_BLOCK_MAX: Final = 128 << 10
_BLOCK_RLE, _BLOCK_COMPRESSED, _BLOCK_RESERVED = 1, 2, 3
_CHECKSUM: Final = 4
_STEP: Final = 1 << 20  # bytes that one call of the decoder may at most produce beyond what is checked
_GZIP_OR_ZLIB: Final = 47

_local = threading.local()  # a zstd context is not thread-safe and costs 0.1 MB to make


def decompress(compressor: Compressor, stored: bytes | bytearray | memoryview, size: int) -> bytes:
    """The *size* bytes that *stored* is the compressed form of. Any thread; zstd runs without the GIL.

    Raises:
        ChunkInvalid: it is not, or it makes another number of bytes.
    """
    if compressor is Compressor.ZSTD:
        found = _zstd(stored, size)
    elif compressor is Compressor.LZ4_BLOCK:
        found = _lz4(stored, size)
    elif compressor is Compressor.GZIP:
        found = _gzip(stored, size)
    else:
        found = bytes(stored)
    if len(found) != size:
        raise ChunkInvalid(f"{len(stored)} stored bytes make {len(found)}, expected {size}")
    return found


def _zstd(stored: bytes | bytearray | memoryview, size: int) -> bytes:
    _frame(bytes(stored[:_FRAME_HEADER_MAX]), size)
    decompressor = getattr(_local, "zstd", None)
    if decompressor is None:
        decompressor = _local.zstd = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    try:
        found: bytes = decompressor.decompress(stored, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ChunkInvalid(
            f"{len(stored)} stored bytes are not a whole zstd frame of {size}: {error}"
        ) from error
    return found


def _frame(start: bytes, size: int) -> tuple[int, bool]:
    """Size of the frame header and whether a checksum ends the frame, after judging the header."""
    try:
        frame = zstandard.get_frame_parameters(start)
        header_size: int = zstandard.frame_header_size(start)
    except zstandard.ZstdError as error:
        raise ChunkInvalid(f"stored bytes do not start with a zstd frame: {error}") from error
    if frame.content_size not in (size, zstandard.CONTENTSIZE_UNKNOWN):
        raise ChunkInvalid(f"zstd frame is for {counted(frame.content_size, 'byte')}, expected {size}")
    if frame.window_size > max(MAX_WINDOW, size) or frame.dict_id:
        raise ChunkInvalid(f"zstd frame needs a window of {frame.window_size}, dictionary {frame.dict_id}")
    return header_size, bool(frame.has_checksum)


def _lz4(stored: bytes | bytearray | memoryview, size: int) -> bytes:
    import lz4.block  # type: ignore[import-untyped]

    try:
        found: bytes = lz4.block.decompress(stored, uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise ChunkInvalid(f"{len(stored)} stored bytes are not an lz4 block of {size}: {error}") from error
    return found


def _gzip(stored: bytes | bytearray | memoryview, size: int) -> bytes:
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        found = inflater.decompress(stored, size + 1)
    except zlib.error as error:
        raise ChunkInvalid(f"{len(stored)} stored bytes are not a gzip member: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise ChunkInvalid(f"{len(stored)} stored bytes are not exactly one gzip member of {size}")
    return found


class ZstdStream:
    """One zstd frame, decompressed as its bytes arrive. Not thread-safe.

    The decoder gets whole blocks only: a block of 10 bytes can make 128 KiB, and the decoder's own interface
    has no bound, so the bound is kept by counting blocks before they are handed over.
    """

    def __init__(self, size: int) -> None:
        """Expect a frame of *size* uncompressed bytes."""
        self._size = size
        self._produced = 0
        self._pending = bytearray()
        self._decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        self._header_read = False
        self._last_block_read = False
        self._trailer = 0
        self.finished = False

    def feed(self, piece: bytes, *, last: bool) -> bytes:
        """The bytes that become known with *piece*; *last*: nothing follows it.

        Raises:
            ChunkInvalid: not one frame of the promised size; the stream is of no more use.
        """
        self._pending += piece
        if not self._header_read:
            if len(self._pending) < _FRAME_HEADER_MAX and not last:
                return b""
            header_size, checksum = _frame(bytes(self._pending[:_FRAME_HEADER_MAX]), self._size)
            self._trailer = _CHECKSUM if checksum else 0
            self._header_read = True
            self._decode(header_size)
        found = []
        while (taken := self._whole_blocks()) > 0:
            found.append(self._decode(taken))
        if self._last_block_read and not self.finished and len(self._pending) >= self._trailer:
            self.finished = True
            if self._trailer:
                found.append(self._decode(self._trailer))
        if self.finished and (self._pending or self._produced != self._size):
            raise ChunkInvalid(
                f"zstd frame makes {counted(self._produced, 'byte')}, expected {self._size}, or bytes"
                " follow it"
            )
        if last and not self.finished:
            raise ChunkInvalid(f"zstd frame is cut off after {self._produced} of {self._size} bytes")
        return b"".join(found)

    def _whole_blocks(self) -> int:
        """Bytes of the next whole blocks that together cannot make more than one step."""
        position = possible = 0
        while not self._last_block_read and possible < _STEP:
            head = int.from_bytes(self._pending[position : position + _BLOCK_HEADER], "little")
            kind, size = head >> 1 & 3, head >> 3
            end = position + _BLOCK_HEADER + (1 if kind == _BLOCK_RLE else size)
            if position + _BLOCK_HEADER > len(self._pending) or end > len(self._pending):
                break
            if kind == _BLOCK_RESERVED or size > _BLOCK_MAX:
                raise ChunkInvalid(f"zstd frame has a block of kind {kind} with {counted(size, 'byte')}")
            possible += _BLOCK_MAX if kind == _BLOCK_COMPRESSED else size
            self._last_block_read = bool(head & 1)
            position = end
        return position

    def _decode(self, count: int) -> bytes:
        try:
            found: bytes = self._decoder.decompress(bytes(self._pending[:count]))
        except zstandard.ZstdError as error:
            raise ChunkInvalid(
                f"zstd frame is broken after {counted(self._produced, 'byte')}: {error}"
            ) from error
        del self._pending[:count]
        self._produced += len(found)
        if self._produced > self._size:
            raise ChunkInvalid(f"zstd frame makes more than the expected {counted(self._size, 'byte')}")
        return found
