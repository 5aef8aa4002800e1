"""Tars written byte by byte, for what `tarfile` never writes: every dialect, every way to be broken."""

from __future__ import annotations

from collections.abc import Mapping

BLOCK = 512
END = bytes(2 * BLOCK)


def member(
    name: bytes,
    body: bytes = b"",
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] | None = None,
    size: int | None = None,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    padded: bool = True,
    patches: Mapping[int, bytes] | None = None,
) -> bytes:
    """One header with its body; *size* overrides what the header says, *patches* are bytes by offset."""
    block = bytearray(BLOCK)
    stated = len(body) if size is None else size
    fields = {
        0: name,
        100: octal(mode, 8),
        108: octal(uid, 8),
        116: octal(gid, 8),
        124: octal(stated, 12),
        136: octal(mtime, 12),
        148: b" " * 8,
        156: kind,
        157: link,
        257: magic,
        345: prefix,
    }
    if device is not None:
        fields |= {329: octal(device[0], 8), 337: octal(device[1], 8)}
    for offset, raw in {**fields, **(patches or {})}.items():
        block[offset : offset + len(raw)] = raw
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body + (bytes(-len(body) % BLOCK) if padded else b"")


def octal(value: int, width: int) -> bytes:
    """A numeric field: octal, or base 256 where that does not fit or is negative."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base256(value, width)


def base256(value: int, width: int) -> bytes:
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A PAX extended header for the member that follows."""
    return member(b"PaxHeaders/x", b"".join(pax_record(*record) for record in records), kind=kind)


def pax_record(keyword: bytes, value: bytes) -> bytes:
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def long_name(name: bytes) -> bytes:
    """GNU's way to name the member that follows."""
    return member(b"././@LongLink", name + b"\0", kind=b"L", magic=b"ustar  \0")


def long_link(target: bytes) -> bytes:
    return member(b"././@LongLink", target + b"\0", kind=b"K", magic=b"ustar  \0")
