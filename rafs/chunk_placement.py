"""Which blobs an image uses, how they are numbered, and what its inodes and chunk table say of their chunks.

Blobs keep the order in which they are given; those from which no file takes a chunk are left out, because a
reader would have to fetch their tables for nothing. Two blobs with the same id are one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from .codes import (
    BLOCK,
    CHUNK_FORMAT_BITS,
    CHUNK_FORMAT_INDEXES,
    MAX_BLOBS,
)
from .errors import ImageTooLarge
from .finished_blob import FinishedBlob
from .records import CHUNK_ENTRY, CHUNK_ROW, ChunkEntry, ChunkRow
from .tree import Node, PlanInvalid, split_ref

_BLOCK_BITS = BLOCK.bit_length() - 1
_LARGEST_EXTENT = BLOCK << CHUNK_FORMAT_BITS  # bytes


class ChunkPlacement:
    """The chunks of one image. Not thread-safe: it remembers where in a file each chunk was used."""

    def __init__(self, files: Iterable[Node], blobs: Sequence[FinishedBlob], chunk_size: int) -> None:
        """*files* are all regular files of the image; a chunk's blob key is the position in *blobs*.

        Raises:
            ImageTooLarge: more blobs are used than an image can have.
            PlanInvalid: a blob key is not in *blobs*, or a blob was cut at another chunk size.
        """
        self._chunk_size = chunk_size
        used = {split_ref(ref)[0] for node in files for ref in node.chunks}
        for key in used:
            if key >= len(blobs):
                raise PlanInvalid(f"a file has a chunk in blob {key}, but there are {len(blobs)} blobs")
            if blobs[key].chunk_size != chunk_size:
                raise PlanInvalid(
                    f"blob {blobs[key].id} is cut at {blobs[key].chunk_size} bytes, the image at {chunk_size}"
                )
        by_id: dict[str, FinishedBlob] = {}
        for key in sorted(used):
            by_id.setdefault(blobs[key].id, blobs[key])
        if len(by_id) > MAX_BLOBS:
            raise ImageTooLarge(f"the files use {len(by_id)} blobs, an image can have {MAX_BLOBS}")
        self.blobs = tuple(by_id.values())  # in blob table order
        index_of = {blob_id: index for index, blob_id in enumerate(by_id)}
        self._index_of_key = {key: index_of[blobs[key].id] for key in used}
        self._file_offsets = [array("Q", bytes(8 * blob.chunk_count)) for blob in self.blobs]

    def place_file(self, node: Node) -> tuple[int, bytes]:
        """(chunk format, chunk entries) of a regular file: what its inode says, and what follows the inode.

        Raises:
            PlanInvalid: a chunk is not in its blob, or has not the size that its place in the file asks for.
        """
        entries = bytearray()
        contiguous = True
        previous = (0, 0)  # device, block
        left = node.size
        for ref in node.chunks:
            key, chunk_index = split_ref(ref)
            blob_index = self._index_of_key[key]
            blob = self.blobs[blob_index]
            expected = min(left, self._chunk_size)
            found = blob.sizes[chunk_index] if chunk_index < blob.chunk_count else None
            if found != expected:
                raise PlanInvalid(
                    f"chunk {chunk_index} of blob {blob.id} has {found} bytes, byte {node.size - left} of the"
                    f" file wants {expected}"
                )
            self._file_offsets[blob_index][chunk_index] = node.size - left
            device, block = blob_index + 1, blob.blocks[chunk_index]
            entries += CHUNK_ENTRY.pack(ChunkEntry(chunk_index & 0xFFFF, device, chunk_index >> 16, block))
            contiguous &= not previous[0] or (device, block) == previous
            previous = device, block + self._chunk_size // BLOCK
            left -= expected
        return self._chunk_format(node.size, contiguous), bytes(entries)

    def _chunk_format(self, size: int, contiguous: bool) -> int:
        extent_bits = self._chunk_size.bit_length() - 1
        if contiguous and self._chunk_size < size <= _LARGEST_EXTENT:
            # The kernel goes by this and sees one extent; readers of RAFS go by the image's chunk size.
            extent_bits = (size - 1).bit_length()
        return extent_bits - _BLOCK_BITS | CHUNK_FORMAT_INDEXES

    def chunk_table(self) -> bytes:
        """A row for every chunk of every blob, sorted by digest, blob and index.

        Chunks that no file uses (a higher layer replaced it) have a row as well: readers fetch and verify
        whole units, and this table is where they have the digests from.
        """
        order = sorted(
            (blob.digest(chunk_index), blob_index, chunk_index)
            for blob_index, blob in enumerate(self.blobs)
            for chunk_index in range(blob.chunk_count)
        )
        return b"".join(
            CHUNK_ROW.pack(
                ChunkRow(
                    digest=digest,
                    blob_index=blob_index,
                    size=self.blobs[blob_index].sizes[chunk_index],
                    offset=self.blobs[blob_index].offset(chunk_index),
                    file_offset=self._file_offsets[blob_index][chunk_index],
                    chunk_index=chunk_index,
                )
            )
            for digest, blob_index, chunk_index in order
        )

    @property
    def chunk_table_size(self) -> int:
        return CHUNK_ROW.size * sum(blob.chunk_count for blob in self.blobs)
