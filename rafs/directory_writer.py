"""The byte stream of a directory: blocks of 4 KiB, each with its dirents first and their names behind.

Sizes are known from the names alone, so a plan can be made before node ids exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from .codes import BLOCK
from .records import DIRENT


def _block_starts(names: Iterable[bytes]) -> tuple[list[int], int]:
    """Indices of the names that begin a block, and the bytes used in the last block."""
    starts = [0]
    used = 0
    for index, name in enumerate(names):
        need = DIRENT.size + len(name)
        if used + need > BLOCK:
            starts.append(index)
            used = 0
        used += need
    return starts, used


def directory_size(names: Iterable[bytes]) -> int:
    """Bytes of the stream for these names, which include `.` and `..`; the order matters."""
    starts, used = _block_starts(names)
    return (len(starts) - 1) * BLOCK + used


def pack_directory(names: Sequence[bytes], nids: Sequence[int], types: Sequence[int]) -> bytes:
    """The stream; the i-th name has the i-th nid and file type. *names* are sorted, with `.` and `..`."""
    starts, _ = _block_starts(names)
    stream = bytearray()
    pack = DIRENT.struct.pack
    for start, end in pairwise([*starts, len(names)]):
        stream += bytes(-len(stream) % BLOCK)
        name_offset = (end - start) * DIRENT.size
        for index in range(start, end):
            stream += pack(nids[index], name_offset, types[index], 0)
            name_offset += len(names[index])
        stream += b"".join(names[start:end])
    return bytes(stream)
