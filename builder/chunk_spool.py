"""The chunks of one layer that nobody has yet, one behind the other in a scratch file, each once.

They are found while the layer's tar goes by, so what is known already is never written. Chunks that were
taken are readable after `flush`. Not here: how a tar is cut into chunks (`tar_index`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Final

from builder.scratch import ScratchFile
from rafs.digests import chunk_digest

_PENDING_BYTES: Final = 1 << 20
_PENDING_CHUNKS: Final = 512  # one writev takes 1024


class ChunkSpool:
    """Taken from and flushed by one thread; after that read by any."""

    def __init__(self, directory: Path | None, known: Container[bytes] = ()) -> None:
        """*known* are digests of chunks that need not be kept; it may grow meanwhile.

        Raises:
            SpoolFull, SpoolFailed: *directory* cannot take a file.
        """
        self._content = ScratchFile(directory)
        self._known = known
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._end = 0
        self.places: dict[bytes, int] = {}  # by digest: where it lies in the file

    def take(self, chunk: bytes | memoryview) -> bytes:
        """The digest of *chunk*, which is kept if it is new; its memory stays in use until the next flush.

        Raises:
            SpoolFull, SpoolFailed: it could not be written.
        """
        digest = chunk_digest(chunk)
        if digest in self.places or digest in self._known:
            return digest
        size = len(chunk)
        self.places[digest] = self._end
        self._end += size
        self._pending.append(chunk)
        self._pending_bytes += size
        if self._pending_bytes >= _PENDING_BYTES or len(self._pending) >= _PENDING_CHUNKS:
            self.flush()
        return digest

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            SpoolFull, SpoolFailed: it was not, or not wholly, written.
        """
        self._content.append_all(self._pending)
        self._pending = []
        self._pending_bytes = 0

    def read(self, places: Sequence[int], sizes: Sequence[int]) -> bytes:
        """The chunks at *places*, one behind the other; neighbours are read together.

        Raises:
            SpoolFailed: the disk reported an error.
        """
        found = [self._content.read(start, size) for start, size in _runs(places, sizes)]
        return found[0] if len(found) == 1 else b"".join(found)

    def close(self) -> None:
        """Give the space back."""
        self._content.close()


def _runs(places: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = end = places[0]
    for place, size in zip(places, sizes, strict=True):
        if place != end:
            yield start, end - start
            start = place
        end = place + size
    yield start, end - start
