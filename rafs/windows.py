"""Windows: how a blob's uncompressed address space is cut into what is local or not as one. Pure arithmetic.

A window is a run of whole units, about 1 MiB, cut at content-defined places: where a cut falls depends only
on the digests and sizes of the chunks since the last cut and on where units end. So two blobs that share
content share windows once one cut agrees, whatever came before. A large unit nearly always ends its window,
so for images of large units a window is a unit, and small ones are gathered.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NewType

from blake3 import blake3

from .blob_meta import BlobMeta
from .codes import BLOCK, DIGEST_SIZE
from .defaults import WINDOW_MAX, WINDOW_MIN, WINDOW_TARGET
from .errors import FormatInvalid

WindowId = NewType("WindowId", str)  # 64 hex digits


@dataclass(frozen=True, slots=True)
class Window:
    """One window of one blob.

    Its file holds chunk c at c.offset - start, followed by zeros up to a multiple of 4096.
    """

    id: WindowId  # blake3 of the digests and sizes of its chunks, and of their places if there are gaps
    index: int
    first_unit: int
    unit_count: int
    first_chunk: int
    chunk_count: int
    start: int  # bytes, in the blob's uncompressed address space
    length: int  # bytes, multiple of 4096
    compressed_start: int  # in the blob object
    compressed_end: int


def cut_windows(meta: BlobMeta) -> tuple[Window, ...]:
    """All windows of the blob, in order; together they are its address space."""
    windows: list[Window] = []
    for first_unit, end_unit in _runs(meta):
        first, last = meta.unit(first_unit), meta.unit(end_unit - 1)
        end_chunk = last.first_chunk + last.chunk_count
        start, end = _start(meta, first.first_chunk), _start(meta, end_chunk)
        windows.append(
            Window(
                id=_window_id(meta, first.first_chunk, end_chunk),
                index=len(windows),
                first_unit=first_unit,
                unit_count=end_unit - first_unit,
                first_chunk=first.first_chunk,
                chunk_count=end_chunk - first.first_chunk,
                start=start,
                length=end - start,
                compressed_start=first.compressed_offset,
                compressed_end=last.compressed_offset + last.compressed_size,
            )
        )
    return tuple(windows)


def find_window(windows: Sequence[Window], offset: int) -> Window:
    """The window that holds byte *offset* of the blob's uncompressed address space.

    Raises:
        FormatInvalid: none of them does.
    """
    index = bisect_right(windows, offset, key=attrgetter("start")) - 1
    if index < 0 or offset >= windows[index].start + windows[index].length:
        raise FormatInvalid(f"no window holds byte {offset} of the blob")
    return windows[index]


def _runs(meta: BlobMeta) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of the units of each window."""
    first = length = end = 0
    for index in range(meta.unit_count):
        unit = meta.unit(index)
        end_chunk = unit.first_chunk + unit.chunk_count
        size = _start(meta, end_chunk) - _start(meta, unit.first_chunk)
        # One range of the object fills a window, front to back: a unit that reaches back is not in it.
        if length and (length + size > WINDOW_MAX or unit.compressed_offset < end):
            yield first, index
            first, length = index, 0
        end = unit.compressed_offset + unit.compressed_size
        length += size
        last_digest = meta.digests[end_chunk * DIGEST_SIZE - 8 : end_chunk * DIGEST_SIZE]
        if length >= WINDOW_MIN and _is_cut(last_digest, size):
            yield first, index + 1
            first, length = index + 1, 0
    if length:
        yield first, meta.unit_count


def _is_cut(last_digest: bytes, size: int) -> bool:
    # A border is taken with a probability proportional to its unit's size, so that windows of small and of
    # large units both come to WINDOW_TARGET on average: WINDOW_MIN, then one cut per TARGET - MIN bytes.
    return int.from_bytes(last_digest, "little") * (WINDOW_TARGET - WINDOW_MIN) < size << 64


def _start(meta: BlobMeta, chunk: int) -> int:
    """Where *chunk*, or what follows the last one, starts in the address space."""
    return meta.blocks[chunk] * BLOCK if chunk < meta.chunk_count else meta.uncompressed_size


def _window_id(meta: BlobMeta, first: int, end: int) -> WindowId:
    sizes = meta.sizes[first:end]
    named = meta.digests[first * DIGEST_SIZE : end * DIGEST_SIZE] + struct.pack(f"<{end - first}I", *sizes)
    start, after = _start(meta, first), _start(meta, end)
    if sum(-(-size // BLOCK) for size in sizes) * BLOCK != after - start:
        places = [_start(meta, chunk) - start for chunk in range(first, end + 1)]
        named += struct.pack(f"<{len(places)}Q", *places)
    return WindowId(blake3(named).hexdigest())
