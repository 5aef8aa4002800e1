"""One 512-byte tar header: v7, ustar, GNU and star, decoded to bytes and integers.

What Go's archive/tar accepts is accepted, what it refuses is refused, because that is what docker,
containerd and umoci read layers with. Not here: what several headers mean together (`tar_index`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zlib import adler32

BLOCK: Final = 512  # bytes

_FIELDS: Final = struct.Struct("<100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_CHECKSUM_AT: Final = slice(148, 156)
_USTAR: Final = b"ustar\x0000"
_GNU: Final = b"ustar  \x00"
_STAR_TRAILER: Final = b"tar\x00"
_ADLER_MODULUS: Final = 65521
_BLANK: Final = 8 * 0x20  # the checksum counts its own field as spaces

assert _FIELDS.size == BLOCK


class Malformed(Exception):
    """A rule of tar is broken. Private to the tar modules: `tar_index` adds the layer and the entry."""


class Unshowable(Exception):
    """Well-formed, but nothing the converted image can hold. Private like `Malformed`."""


@dataclass(slots=True)
class Header:
    """The fields of one header; `kind` is the type flag, one byte."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int  # bytes of body that follow
    mtime: int
    kind: bytes
    link: bytes
    major: int
    minor: int
    prefix: bytes
    raw: bytes  # the whole block, for fields of one dialect


def parse_header(block: bytes) -> Header:
    """The header in *block*, which is exactly `BLOCK` bytes.

    Raises:
        Malformed: wrong checksum, or a number that is none.
    """
    (
        name, mode, uid, gid, size, mtime, checksum, kind, link, magic, _, _, major, minor, prefix, trailer
    ) = _FIELDS.unpack(block)  # fmt: skip
    # Adding up in Python takes half of the time of reading a header. The low half of Adler-32 is 1 and the
    # sum, modulo a prime.
    stated, expected = _stated(checksum)
    if adler32(block) & 0xFFFF != expected or stated >= _ADLER_MODULUS:
        _check_sum(block, stated)
    # Python's tarfile leaves the device fields of other types blank, some writers leave garbage.
    is_device = kind == b"3" or kind == b"4"
    return Header(
        text(name),
        number(mode, "mode"),
        number(uid, "uid"),
        number(gid, "gid"),
        number(size, "size"),
        number(mtime, "mtime"),
        kind,
        text(link) if link[0] else b"",
        number(major, "device major") if is_device else 0,
        number(minor, "device minor") if is_device else 0,
        _prefix(magic, prefix, trailer) if prefix[0] else b"",
        block,
    )


def text(field: bytes) -> bytes:
    """A NUL-terminated field."""
    return field.split(b"\0", 1)[0]


@lru_cache(maxsize=1 << 12)  # of a layer's fields most are the same
def number(field: bytes, what: str) -> int:
    """A numeric field: octal digits, or base 256 where the first bit is set (two's complement then).

    Raises:
        Malformed: neither; *what* names the field.
    """
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field) - 1
        value &= (1 << bits) - 1
        return value - (1 << bits) if field[0] & 0x40 else value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit():
        digits = text(digits).rstrip(b" ")
    if not digits.isdigit() or digits.strip(b"01234567"):
        raise Malformed(f"{what} field holds {field!r}, expected octal digits")
    return int(digits, 8)


@lru_cache(maxsize=1 << 13)
def _stated(field: bytes) -> tuple[int, int]:
    """(the checksum in its field, the low half of a right header's Adler-32)."""
    stated = number(field, "checksum")
    return stated, (1 + stated - _BLANK + sum(field)) % _ADLER_MODULUS


def _check_sum(block: bytes, stated: int) -> None:
    fixed = _BLANK - sum(block[_CHECKSUM_AT])
    without = sum(block) + fixed
    if stated == without:
        return
    # Old writers summed signed bytes.
    summed = block[: _CHECKSUM_AT.start] + block[_CHECKSUM_AT.stop :]
    signed = without - 256 * sum(byte > 127 for byte in summed)
    if stated != signed:
        raise Malformed(f"header checksum is {stated:o}, expected {without:o}; the tar is corrupt here")


def _prefix(magic: bytes, field: bytes, trailer: bytes) -> bytes:
    if magic == _USTAR or magic[:6] == _USTAR[:6]:
        return text(field[:131] if trailer[8:] == _STAR_TRAILER else field)
    if magic == _GNU and field[0] and not field[0] & 0x80 and field[:12].strip(b"01234567 \0"):
        # GNU headers have times there, but Go before 1.8 wrote a prefix all the same.
        return text(field)
    return b""
