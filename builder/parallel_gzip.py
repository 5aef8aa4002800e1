"""A gzip stream made by several threads, with the same bytes however many they are.

Pieces are deflated apart, each with what came before it as its dictionary, and end on a whole byte; one
behind the other they are one deflate stream, as pigz makes it (RFC 1951 §2.3, RFC 1952). By zlib, whose
output has not changed in many years; isal's differs between processors. Not here: the stream's digest.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

_LEVEL: Final = 6
_WINDOW: Final = 32 << 10  # bytes that deflate can look back
_RAW: Final = -15  # the largest window, and no header
_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"  # deflate, no time, made on Unix
_LAST_BLOCK: Final = b"\x03\0"  # an empty one; no piece knows whether it is the last


def gzip_pieces(pieces: Iterable[bytes], threads: int) -> Iterator[bytes]:
    """The gzip form of *pieces*, in pieces; the bytes depend on where *pieces* are cut.

    Each is worked on by one of *threads*; twice as many and one are in memory at most.
    """
    crc = size = 0
    before = b""
    waiting: deque[Future[bytes]] = deque()
    yield _HEADER
    with ThreadPoolExecutor(threads, thread_name_prefix="gzip") as pool:
        for piece in pieces:
            waiting.append(pool.submit(_deflated, piece, before))
            crc, size, before = zlib.crc32(piece, crc), size + len(piece), piece[-_WINDOW:]
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    yield _LAST_BLOCK + struct.pack("<II", crc, size & 0xFFFFFFFF)


def _deflated(piece: bytes, before: bytes) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, zdict=before)
    return compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)
