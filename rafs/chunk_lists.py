"""The chunks of a blob that is still being written: all a bootstrap needs to know but the blob's name.

Which chunks a blob has is decided long before they are compressed; meanwhile inodes can be written. A
`FinishedBlob` can stand wherever a `ChunkLists` can.
"""

from __future__ import annotations

from array import array
from typing import Protocol

from .codes import BLOCK, DIGEST_SIZE, MAX_CHUNK_SIZE, MAX_CHUNKS, MAX_UNCOMPRESSED_SIZE
from .errors import ImageTooLarge

_BLOCKS_LIMIT = (MAX_UNCOMPRESSED_SIZE - MAX_CHUNK_SIZE) // BLOCK


class ChunkTables(Protocol):
    """What inodes and chunk table say of a blob. Offsets and sizes in bytes."""

    @property
    def id(self) -> str:
        """64 hex digits; empty where it is not known yet."""

    @property
    def chunk_size(self) -> int:
        """The largest a chunk may be."""

    @property
    def digests(self) -> bytes | bytearray:
        """32 bytes per chunk."""

    @property
    def blocks(self) -> array[int]:
        """Per chunk: offset in the address space / 4096."""

    @property
    def sizes(self) -> array[int]:
        """Per chunk."""


class ChunkLists:
    """Grows by `add`; used by one thread until it is complete."""

    id = ""

    def __init__(self, chunk_size: int) -> None:
        self.chunk_size = chunk_size
        self.digests = bytearray()
        self.blocks = array("I")
        self.sizes = array("I")
        self._next_block = 0

    def add(self, size: int, digest: bytes) -> int:
        """The index of a further chunk.

        Raises:
            ImageTooLarge: the blob has 2**24 - 1 chunks or 16 TiB.
        """
        index = len(self.sizes)
        if index >= MAX_CHUNKS or self._next_block >= _BLOCKS_LIMIT:
            raise ImageTooLarge(
                f"one blob would get more than {index} chunks of together {self._next_block * BLOCK} bytes; "
                f"the format has room for {MAX_CHUNKS} and {MAX_UNCOMPRESSED_SIZE}"
            )
        self.digests += digest
        self.blocks.append(self._next_block)
        self.sizes.append(size)
        self._next_block += -(-size // BLOCK)
        return index

    def digest(self, index: int) -> bytes:
        """That of one chunk."""
        return bytes(self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])
