"""The tar bytes inside a layer as it travels: gzip, zstd or nothing.

The form is told by the first bytes, as containerd and docker do, since media types of real images are
sometimes wrong. Memory is bounded whatever the bytes say: output comes in pieces of at most `PIECE` bytes,
and zstd windows above 128 MiB are refused. Not here: digests. The source checks the compressed one;
`layer_reader` checks the other, and with it that a zstd stream was not cut short, which the zstd library does
not report.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

import zstandard
from isal import igzip
from isal.igzip_lib import IsalError

from builder.errors import LayerInvalid

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE: Final = 1 << 20  # bytes; few enough switches between threads, small beside a unit in flight

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"  # bytes 1..3 of a skippable frame; byte 0 is 0x50..0x5f
_OTHER_MAGICS: Final = {b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}
_ZSTD_WINDOW_LIMIT: Final = 128 << 20  # bytes; what the zstd tool accepts by default


class PlainPieces(NamedTuple):
    """The uncompressed bytes of a layer, in pieces of at most `PIECE` bytes."""

    pieces: Iterator[bytes]
    as_stored: bool  # they are the very bytes that travelled


def plain_pieces(stored: Iterable[bytes], layer: str) -> PlainPieces:
    """Those of the layer called *layer* in errors, whose bytes, as they travel, are *stored*.

    Concatenated gzip members and zstd frames are one stream; zero padding after the last gzip member is
    skipped. What *stored* raises passes through.

    Raises:
        LayerInvalid: corrupt compression, garbage after it, a gzip stream that ends early, or a compression
            that layers do not have.
    """
    source = _PieceReader(iter(stored))
    head = source.peek(6)
    for magic, name in _OTHER_MAGICS.items():
        if head.startswith(magic):
            raise LayerInvalid(f"layer {layer}: compressed with {name}, expected gzip, zstd or a plain tar")
    if head.startswith(_GZIP_MAGIC):
        return PlainPieces(_gzip_pieces(source, layer), as_stored=False)
    if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        return PlainPieces(_zstd_pieces(source, layer), as_stored=False)
    return PlainPieces(_joined(source.rest()), as_stored=True)


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """*pieces*, which may be small or large, in few of at most `PIECE` bytes."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        for at in range(0, len(piece), PIECE):
            part = piece[at : at + PIECE]
            if size + len(part) > PIECE:
                yield b"".join(waiting)
                waiting, size = [], 0
            waiting.append(part)
            size += len(part)
    if waiting:
        yield b"".join(waiting)


def _gzip_pieces(source: _PieceReader, layer: str) -> Iterator[bytes]:
    try:
        with igzip.open(source, "rb") as stream:  # type: ignore[no-untyped-call]
            while piece := stream.read1(PIECE):
                yield piece
    except EOFError as error:
        # Of so few bytes after a member that they are no header, the library does not say what they are.
        raise LayerInvalid(
            f"layer {layer}: the gzip stream ends early, at byte {source.position}, "
            "or with a few bytes of garbage after its last member"
        ) from error
    except (igzip.BadGzipFile, IsalError) as error:  # type: ignore[misc]
        # The first member has its magic number, or this would not be read as gzip.
        if str(error).startswith("Not a gzipped file"):
            raise LayerInvalid(
                f"layer {layer}: garbage after the last gzip member, near byte {source.position}; "
                "push the image again"
            ) from error
        raise _corrupt("gzip", layer, source, error) from error


def _zstd_pieces(source: _PieceReader, layer: str) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_LIMIT)
    try:
        with decompressor.stream_reader(cast(BinaryIO, source), read_across_frames=True) as stream:
            while piece := stream.read1(PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise _corrupt("zstd", layer, source, error) from error


def _corrupt(form: str, layer: str, source: _PieceReader, error: Exception) -> LayerInvalid:
    return LayerInvalid(
        f"layer {layer}: corrupt {form} stream near byte {source.position}: {error}; push the image again"
    )


class _PieceReader(io.RawIOBase):
    """A file over an iterator of pieces; `position` counts the bytes handed out."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.position = 0

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        """The next *size* bytes without consuming them; fewer only at the end."""
        head = bytes(self._rest)
        for piece in self._pieces:
            head += piece
            if len(head) >= size:
                break
        self._rest = memoryview(head)
        return head[:size]

    def rest(self) -> Iterator[bytes]:
        """All that is left, without a copy of most of it."""
        yield bytes(self._rest)
        yield from self._pieces

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.position += count
        return count
