"""Decompression of one piece whose size is known beforehand, bounded by that size.

Nothing here trusts the piece: no more memory is taken than the promised size needs, whatever a header inside
says, and every failure of a library is a `ChunkInvalid`. Digests are the callers' business.
"""

from __future__ import annotations

import threading
import zlib
from typing import IO, Final, cast

import zstandard

from .codes import Compressor
from .errors import ChunkInvalid

# Levels up to 19 use windows of at most 8 MiB; a frame that asks for more is no unit of an image.
MAX_WINDOW: Final = 8 << 20

_FRAME_HEADER_MAX: Final = 18
_BLOCK_HEADER: Final = 3
_BLOCK_MAX: Final = 128 << 10
_BLOCK_RLE, _BLOCK_COMPRESSED, _BLOCK_RESERVED = 1, 2, 3
_CHECKSUM: Final = 4
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
        raise ChunkInvalid(f"zstd frame is for {frame.content_size} bytes, expected {size}")
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


class _Fed:
    """What a reader of the zstd library reads from: what was put into `next`, once."""

    def __init__(self) -> None:
        self.next = b""

    def read(self, _size: int) -> bytes:
        piece, self.next = self.next, b""
        if not piece:
            raise _NothingThere  # an empty answer would be the end for good
        return piece


class _NothingThere(Exception):
    """All that was fed is decoded."""


class ZstdStream:
    """One zstd frame, decompressed as its bytes arrive. Not thread-safe; of no use after an error.

    `plain` is the memory for all of it, of which the first `made` bytes are known. The decoder gets whole
    blocks only and decodes into that memory, so nothing is copied again, and no frame can make more.
    """

    def __init__(self, size: int) -> None:
        """Expect a frame of *size* uncompressed bytes."""
        self._size = size
        self.plain = bytearray(size + 1)  # a frame that makes more has to show it
        self.made = 0
        self._pending = bytearray()
        self._fed = _Fed()
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader = decompressor.stream_reader(cast("IO[bytes]", self._fed))  # it only reads
        self._head = -1  # bytes of the frame's header; -1: not read yet
        self._trailer = 0
        self._last_block_read = False
        self.finished = False

    def feed(self, piece: bytes, *, last: bool) -> None:
        """Make what becomes known with *piece*; *last*: nothing follows it.

        Raises:
            ChunkInvalid: not one frame of the promised size.
        """
        self._pending += piece
        if self._head < 0:
            if len(self._pending) < _FRAME_HEADER_MAX and not last:
                return
            self._head, checksum = _frame(bytes(self._pending[:_FRAME_HEADER_MAX]), self._size)
            self._trailer = _CHECKSUM if checksum else 0
        while not self.finished and (count := self._decodable()):
            self._decode(count)
            self.finished = self._last_block_read
        if self.made > self._size:
            raise ChunkInvalid(f"zstd frame makes more than the expected {self._size} bytes")
        if self.finished and (self._pending or self.made != self._size):
            raise ChunkInvalid(
                f"zstd frame makes {self.made} bytes, expected {self._size}, or bytes follow it"
            )
        if last and not self.finished:
            raise ChunkInvalid(f"zstd frame is cut off after {self.made} of {self._size} bytes")

    def _decodable(self) -> int:
        """Bytes up to the end of the last block that is whole; the header goes with the first block, the
        checksum with the last.
        """
        whole, at = 0, self._head
        while at + _BLOCK_HEADER <= len(self._pending):
            head = int.from_bytes(self._pending[at : at + _BLOCK_HEADER], "little")
            kind, size = head >> 1 & 3, head >> 3
            if kind == _BLOCK_RESERVED or size > _BLOCK_MAX:
                raise ChunkInvalid(f"zstd frame has a block of kind {kind} with {size} bytes")
            at += _BLOCK_HEADER + (1 if kind == _BLOCK_RLE else size)
            is_last = bool(head & 1)
            if at + (self._trailer if is_last else 0) > len(self._pending):
                break
            whole = at
            if is_last:
                self._last_block_read = True
                return at + self._trailer
        return whole

    def _decode(self, count: int) -> None:
        self._fed.next = bytes(memoryview(self._pending)[:count])
        del self._pending[:count]
        self._head = 0
        try:
            with memoryview(self.plain) as plain:
                self.made += self._reader.readinto1(plain[self.made :])
        except _NothingThere:
            pass  # blocks that make nothing
        except zstandard.ZstdError as error:
            raise ChunkInvalid(f"zstd frame is broken after {self.made} bytes: {error}") from error
