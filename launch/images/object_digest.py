"""The digest of a whole object, in one pass with reads of stretches of it.

Not here: judging the digest, or what is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from launch.images.chunk_tables import SizedBlobs


class ObjectDigest:
    """Reads one object for somebody and hashes it from front to back; what nobody asks for it reads itself.

    Reads may overlap and go back, as the units of a reference to a tar.gz do: each byte counts once.
    """

    def __init__(self, blobs: SizedBlobs, object_id: str, advance: Callable[[int], None]) -> None:
        """*advance* is told of each byte of the object once."""
        self._blobs = blobs
        self._id = object_id
        self._advance = advance
        self._sha256 = hashlib.sha256()
        self._end = 0  # of what is hashed

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes.

        Raises: what the blobs raise.
        """
        self._pass_to(offset)
        stored = b"".join(self._blobs.read_at(self._id, offset, size))
        self._take(memoryview(stored)[self._end - offset :])
        return stored

    def finish(self) -> str:
        """The sha256 of the object in hex digits, after reading what is left of it.

        Raises: what the blobs raise.
        """
        self._pass_to(self._blobs.object_size(self._id))
        return self._sha256.hexdigest()

    def _pass_to(self, offset: int) -> None:
        if offset > self._end:
            for piece in self._blobs.read_at(self._id, self._end, offset - self._end):
                self._take(piece)

    def _take(self, following: bytes | memoryview) -> None:
        self._sha256.update(following)
        self._end += len(following)
        self._advance(len(following))
