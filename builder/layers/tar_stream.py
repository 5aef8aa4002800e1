"""The plain bytes of a layer, read once from front to back; they come in pieces of any size.

What lies inside one piece is given without copying it. Not here: what the bytes mean (`tar_index`).
"""

from __future__ import annotations

from collections.abc import Iterator

from builder.layers.tar_header import BLOCK, Malformed
from rafs.counted import counted


class TarStream:
    """A position in a stream of pieces. Not thread-safe."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._view = memoryview(b"")
        self._at = 0  # in the piece
        self._before = 0  # bytes of the pieces before it

    @property
    def at(self) -> int:
        """Bytes read so far."""
        return self._before + self._at

    def block(self) -> bytes:
        """The next `BLOCK` bytes; fewer, down to none, only at the end."""
        start = self._at
        if start + BLOCK <= len(self._piece):
            self._at = start + BLOCK
            return self._piece[start : start + BLOCK]
        return bytes(self._across(BLOCK))

    def view(self, size: int) -> bytes | memoryview:
        """The next *size* bytes in one piece, which stays in memory for as long as this is kept.

        Raises:
            Malformed: there are fewer.
        """
        start = self._at
        if start + size <= len(self._piece):
            self._at = start + size
            return self._view[start : start + size]
        found = self._across(size)
        if len(found) < size:
            raise Malformed(f"the tar ends {counted(size - len(found), 'byte')} before the end of this entry")
        return found

    def take(self, size: int) -> bytes:
        """As `view`, as a copy."""
        return bytes(self.view(size))

    def skip(self, size: int) -> int:
        """Pass over *size* bytes; how many there were."""
        there = size
        while size > len(self._piece) - self._at:
            size -= len(self._piece) - self._at
            if not self._advance():
                return there - size
        self._at += size
        return there

    def _across(self, size: int) -> bytes:
        """What crosses the border of a piece."""
        parts = []
        while size:
            part = self._view[self._at : self._at + size]
            parts.append(part)
            self._at += len(part)
            size -= len(part)
            if size and not self._advance():
                break
        return b"".join(parts)

    def _advance(self) -> bool:
        self._before += len(self._piece)
        self._piece = next(self._pieces, b"")
        self._view = memoryview(self._piece)
        self._at = 0
        return bool(self._piece)
