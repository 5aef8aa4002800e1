"""Where the blocks of a gzip file begin, by an inflater of its own: slow, and independent of zlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LENGTH_BASES = (3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115,
                 131, 163, 195, 227, 258)  # fmt: skip
_LENGTH_BITS = (0,) * 8 + (1,) * 4 + (2,) * 4 + (3,) * 4 + (4,) * 4 + (5,) * 4 + (0,)
_DISTANCE_BASES = (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
                   2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577)  # fmt: skip
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_GZIP_HEADER = 10  # bytes, of files that Python's zlib writes


@dataclass(frozen=True)
class Block:
    """One deflate block: bits of the file, bytes of the output."""

    start: int
    end: int
    out_start: int
    out_end: int


class _Bits:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, count: int) -> int:
        at, self.at = self.at, self.at + count
        word = int.from_bytes(self.raw[at >> 3 : self.at + 7 >> 3], "little")
        return word >> (at & 7) & (1 << count) - 1

    def symbol(self, codes: dict[tuple[int, int], int]) -> int:
        raw, at = self.raw, self.at
        code = length = 0
        while (length, code) not in codes:
            code, length = code << 1 | raw[at >> 3] >> (at & 7) & 1, length + 1
            at += 1
        self.at = at
        return codes[length, code]


def _codes(lengths: Sequence[int]) -> dict[tuple[int, int], int]:
    codes, code = {}, 0
    for length in range(1, 16):
        for symbol, found in enumerate(lengths):
            if found == length:
                codes[length, code] = symbol
                code += 1
        code <<= 1
    return codes


_FIXED = (_codes([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8), _codes([5] * 30))


def _dynamic(bits: _Bits) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    literals, distances, count = bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4
    lengths = [0] * 19
    for place in range(count):
        lengths[_ORDER[place]] = bits.take(3)
    codes, found = _codes(lengths), list[int]()
    while len(found) < literals + distances:
        symbol = bits.symbol(codes)
        if symbol < 16:
            found.append(symbol)
        elif symbol == 16:
            found += [found[-1]] * (3 + bits.take(2))
        else:
            found += [0] * (3 + bits.take(3) if symbol == 17 else 11 + bits.take(7))
    return _codes(found[:literals]), _codes(found[literals:])


def blocks_of(raw: bytes) -> tuple[list[Block], bytes]:
    """All blocks of the members of a gzip file, and what they make."""
    bits, out, blocks = _Bits(raw), bytearray(), list[Block]()
    while bits.at < 8 * len(raw):
        bits.at += 8 * _GZIP_HEADER
        last = False
        while not last:
            start, out_start = bits.at, len(out)
            last = bool(bits.take(1))
            kind = bits.take(2)
            if kind == 0:
                bits.at += -bits.at % 8
                size = bits.take(16)
                bits.take(16)
                out += raw[bits.at // 8 : bits.at // 8 + size]
                bits.at += 8 * size
            else:
                _inflate(bits, out, *(_FIXED if kind == 1 else _dynamic(bits)))
            blocks.append(Block(start, bits.at, out_start, len(out)))
        bits.at += -bits.at % 8 + 64
    return blocks, bytes(out)


def _inflate(
    bits: _Bits,
    out: bytearray,
    literals: dict[tuple[int, int], int],
    distances: dict[tuple[int, int], int],
) -> None:
    while (symbol := bits.symbol(literals)) != 256:
        if symbol < 256:
            out.append(symbol)
            continue
        length = _LENGTH_BASES[symbol - 257] + bits.take(_LENGTH_BITS[symbol - 257])
        code = bits.symbol(distances)
        distance = _DISTANCE_BASES[code] + bits.take(max(0, code // 2 - 1))
        for _ in range(length):
            out.append(out[-distance])
