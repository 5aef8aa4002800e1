"""What an ELF program needs to start: its interpreter and the names of its shared libraries.

Reads a few small areas through a function, trusts nothing, and gives None for whatever is not a plain ELF
file. Not here: where libraries are searched (`hot_list`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

ReadAt = Callable[[int, int], bytes]  # (offset, size) -> bytes, fewer at the end

_MAGIC: Final = b"\x7fELF"
_SEGMENTS_LIMIT: Final = 128
_AREA_LIMIT: Final = 64 << 10  # bytes of one table; a dynamic section has a few hundred
_STRING_LIMIT: Final = 4096  # bytes
_NEEDED_LIMIT: Final = 256
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29


@dataclass(frozen=True, slots=True)
class Needs:
    """`interpreter` is empty for libraries and static programs; `search` is RUNPATH, else RPATH."""

    interpreter: bytes
    libraries: tuple[bytes, ...]
    search: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_needs(read: ReadAt) -> Needs | None:
    """What the ELF file behind *read* needs; None if it is none, or broken."""
    try:
        return _needs(read)
    except struct.error:
        return None


def _needs(read: ReadAt) -> Needs | None:
    head = read(0, 64)
    if head[:4] != _MAGIC or head[4:5] not in (b"\1", b"\2") or head[5:6] not in (b"\1", b"\2"):
        return None
    wide = head[4] == 2
    order = "<" if head[5] == 1 else ">"
    segments = _segments(read, head, wide, order)
    interpreter = b""
    dynamic: list[tuple[int, int]] = []
    for segment in segments:
        if segment.kind == _INTERPRETER:
            interpreter = read(segment.offset, min(segment.size, _STRING_LIMIT)).split(b"\0")[0]
        elif segment.kind == _DYNAMIC:
            pair = struct.Struct(order + ("qQ" if wide else "iI"))
            area = read(segment.offset, min(segment.size, _AREA_LIMIT))
            dynamic = list(pair.iter_unpack(area[: len(area) - len(area) % pair.size]))
    strings = next((_offset_of(segments, value) for tag, value in dynamic if tag == _DT_STRTAB), None)
    if strings is None:
        return Needs(interpreter, (), ())

    def named(wanted: int) -> list[bytes]:
        found = [value for tag, value in dynamic if tag == wanted][:_NEEDED_LIMIT]
        return [read(strings + value, _STRING_LIMIT).split(b"\0")[0] for value in found]

    search = named(_DT_RUNPATH) or named(_DT_RPATH)
    folders = b":".join(search).split(b":") if search else []
    return Needs(interpreter, tuple(named(_DT_NEEDED)), tuple(folders))


def _segments(read: ReadAt, head: bytes, wide: bool, order: str) -> list[_Segment]:
    if wide:
        (table,) = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
        fields, kind, offset, address, length = struct.Struct(order + "IIQQQQQQ"), 0, 2, 3, 5
    else:
        (table,) = struct.unpack_from(order + "I", head, 28)
        size, count = struct.unpack_from(order + "HH", head, 42)
        fields, kind, offset, address, length = struct.Struct(order + "IIIIIIII"), 0, 1, 2, 4
    if size != fields.size or count > _SEGMENTS_LIMIT:
        return []
    area = read(table, size * count)
    rows = fields.iter_unpack(area[: len(area) - len(area) % size])
    return [_Segment(row[kind], row[offset], row[address], row[length]) for row in rows]


def _offset_of(segments: list[_Segment], address: int) -> int | None:
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    return None
