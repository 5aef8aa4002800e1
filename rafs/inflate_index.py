"""Inflating a tar.gz from its middle: where a decoder can start, what it must know there, and doing it.

An index ("ZRAN") notes a point every megabyte or two: a bit position in the compressed bytes and the 32 KiB
of output before it. From a point a bounded stretch is decoded, over the borders of gzip members if need be.
Stretches of neighbouring points overlap, so that each chunk lies wholly in one. Digests are the callers'
business.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

from rafs.counted import counted

from .codes import MAX_DICTIONARY
from .errors import ChunkInvalid, FormatInvalid
from .records import ZRAN_CONTEXT

_RAW: Final = -15  # deflate without a header, 32 KiB of window
_MEMBER: Final = 31  # gzip header, deflate, trailer
_TRAILER: Final = 8
_HEADER: Final = 4  # of a gzip header's 10 bytes, those whose values are known
# What one step of the decoder may copy: what follows a member is copied once for each member in a step.
_STEP: Final = 16 << 10


class InflatePoint(NamedTuple):
    """One point of the index. Offsets and sizes in bytes."""

    in_offset: int  # in the tar.gz: the first whole byte
    in_size: int  # with what its last chunk needs
    out_size: int
    bits: int  # how many bits of the byte before in_offset belong to it, 0 to 7
    bit_value: int  # these bits
    dictionary: bytes  # the output before it, at most 32 KiB


class InflateIndex:
    """The points of one blob, read from what follows the chunk entries. Immutable; safe from any thread."""

    def __init__(self, raw: bytes) -> None:
        """*raw*: contexts of 40 bytes, then their dictionaries, as many bytes as the contexts say.

        Raises:
            FormatInvalid: no number of contexts makes that true.
        """
        self._raw = raw
        self.count = 0
        end = 0
        while end < len(raw):
            end += ZRAN_CONTEXT.size + ZRAN_CONTEXT.unpack(raw, self.count * ZRAN_CONTEXT.size).dict_size
            self.count += 1
        if end != len(raw):
            raise FormatInvalid(
                f"{counted(len(raw), 'byte')} of inflate contexts and dictionaries, they need {end}"
            )

    def point(self, index: int) -> InflatePoint:
        """Point *index*, 0 to count - 1.

        Raises:
            FormatInvalid: its dictionary lies outside, or a number in it is impossible.
        """
        if not 0 <= index < self.count:
            raise FormatInvalid(f"there is no inflate context {index} among {self.count}")
        context = ZRAN_CONTEXT.unpack(self._raw, index * ZRAN_CONTEXT.size)
        start = self.count * ZRAN_CONTEXT.size + context.dict_offset
        end = start + context.dict_size
        if context.dict_size > MAX_DICTIONARY or (context.dict_size and end > len(self._raw)):
            raise FormatInvalid(
                f"inflate context {index}: dictionary of {context.dict_size} bytes ends at {end},"
                f" contexts and dictionaries at {len(self._raw)}"
            )
        if not context.in_size or not context.out_size:
            raise FormatInvalid(
                f"inflate context {index} makes {context.out_size} of {context.in_size} bytes"
            )
        bits = context.bits & 7
        return InflatePoint(
            context.in_offset,
            context.in_size,
            context.out_size,
            bits,
            context.bit_byte >> 8 - bits if bits else 0,
            self._raw[start:end],
        )


class InflateStream:
    """What follows one point, inflated as its bytes arrive. Not thread-safe; of no use after an error."""

    def __init__(self, point: InflatePoint) -> None:
        self._left = point.out_size
        self._size = point.out_size
        self._trailer = 0  # bytes of a trailer still to be skipped
        self._between = False  # after a member, before the next one's first byte
        self._decoder = zlib.decompressobj(_RAW, zdict=point.dictionary)
        self._first = True
        self._point: InflatePoint | None = point  # None once its first bytes have been looked at
        self._head = b""
        self.finished = False

    def feed(self, piece: bytes, *, last: bool) -> bytes:
        """The bytes that become known with *piece*; *last*: nothing follows it.

        Raises:
            ChunkInvalid: it is not deflate, or ends before the promised output.
        """
        if self._point is not None:
            self._head += piece
            if len(self._head) < _TRAILER + _HEADER and not last:
                return b""
            piece, self._head = self._head, b""
            self._begin(self._point, piece)
            self._point = None
        found = []
        for start in range(0, len(piece), _STEP):
            rest = piece[start : start + _STEP]
            while rest and self._left:
                if self._trailer:
                    skipped = min(self._trailer, len(rest))
                    self._trailer -= skipped
                    rest = rest[skipped:]
                    continue
                if self._between:
                    self._decoder, self._between = zlib.decompressobj(_MEMBER), False
                found.append(self._inflate(rest))
                rest = b""
                if self._decoder.eof:
                    rest = self._decoder.unused_data
                    # The first decoder began behind the header and knows nothing of a trailer; later ones do.
                    self._trailer = _TRAILER if self._first else 0
                    self._first, self._between = False, True
        self.finished = not self._left
        if last and self._left:
            raise ChunkInvalid(f"deflate stream ends after {self._size - self._left} of {self._size} bytes")
        return b"".join(found)

    def _begin(self, point: InflatePoint, head: bytes) -> None:
        # Nydus' builder also puts points where a member has ended, in front of its trailer, and marks them by
        # nothing. 27 bits tell: one in 10^8 of other points, so of some 100 TB, would be taken for one.
        header = head[_TRAILER : _TRAILER + _HEADER]
        if len(header) == _HEADER and header.startswith(b"\x1f\x8b\x08") and header[3] < 0x20:
            self._trailer, self._first, self._between = _TRAILER, False, True
        elif point.bits:
            self._inflate(priming(point.bits, point.bit_value))

    def _inflate(self, piece: bytes) -> bytes:
        try:
            found = self._decoder.decompress(piece, self._left)
        except zlib.error as error:
            done = self._size - self._left
            raise ChunkInvalid(
                f"deflate stream is broken after {done} of {self._size} bytes: {error}"
            ) from error
        self._left -= len(found)
        return found


def inflate(point: InflatePoint, stored: bytes) -> bytes:
    """The output of *stored*, all bytes of *point*.

    Raises:
        ChunkInvalid: they do not make it.
    """
    return InflateStream(point).feed(stored, last=True)


def priming(bits: int, value: int) -> bytes:
    """Whole bytes of deflate that make no output and whose last *bits* bits (1 to 7) are *value*.

    zlib can be given single bits, but Python's cannot. Empty blocks of suitable lengths fill the bytes in
    front instead: an empty block of fixed codes has 10 bits, which alone gives even numbers only, and the one
    of dynamic codes made here has 91. The bytes that follow stay as they are, so the end of the stream is
    found where it is.
    """
    stream, length = 0, 0
    if bits % 2:
        stream, length = _EMPTY_DYNAMIC
    while (length + bits) % 8:
        stream |= _EMPTY_FIXED[0] << length
        length += _EMPTY_FIXED[1]
    stream |= value << length
    return stream.to_bytes((length + bits) // 8, "little")


def _packed(*fields: tuple[int, int]) -> tuple[int, int]:
    """(value, bits) of all *fields*, the first in the lowest bits, as deflate packs them."""
    value = length = 0
    for field, bits in fields:
        value |= field << length
        length += bits
    return value, length


_EMPTY_FIXED: Final = _packed((0, 1), (1, 2), (0, 7))  # not the last, fixed codes, end of block
_EMPTY_DYNAMIC: Final = _packed(
    (0, 1),  # not the last
    (2, 2),  # dynamic codes
    (0, 5),  # 257 lengths of literals
    (0, 5),  # 1 length of distances
    (14, 4),  # 18 lengths of lengths, in the format's order: 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1
    *((1 if position in (2, 17) else 0, 3) for position in range(18)),  # codes for "18" (1) and "1" (0)
    (1, 1),  # 138 lengths of 0
    (138 - 11, 7),
    (1, 1),  # 117 more: literals 0 to 254
    (117 - 11, 7),
    (0, 1),  # literal 255, end of block and the one distance: length 1 each
    (0, 1),
    (0, 1),
    (1, 1),  # end of block
)
