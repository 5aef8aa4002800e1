"""Which blobs an image uses, how they are numbered, and what its inodes and chunk table say of their chunks.

Blobs keep the order in which they are given; those from which no file takes a chunk are left out, because a
reader would have to fetch their tables for nothing. Two blobs with the same id are one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby

from rafs.counted import counted

from .chunk_lists import ChunkTables
from .codes import BLOCK, CHUNK_FORMAT_BITS, CHUNK_FORMAT_INDEXES, DIGEST_SIZE, MAX_BLOBS
from .entry_words import LOW_BITS, LOW_MASK
from .errors import ImageTooLarge
from .records import CHUNK_ENTRY, CHUNK_ROW
from .tree import Node, PlanInvalid, split_ref

_BLOCK_BITS = BLOCK.bit_length() - 1
_LARGEST_EXTENT = BLOCK << CHUNK_FORMAT_BITS  # bytes

# Without records of names: there is one for each chunk of each file.
_pack_entry = CHUNK_ENTRY.struct.pack
_pack_row = CHUNK_ROW.struct.pack


class ChunkPlacement:
    """The chunks of one image. Not thread-safe: it remembers where in a file each chunk was used."""

    def __init__(self, files: Iterable[Node], blobs: Sequence[ChunkTables], chunk_size: int) -> None:
        """*files* are all regular files of the image; a chunk's blob key is the position in *blobs*.

        Raises:
            ImageTooLarge: more blobs are used than an image can have.
            PlanInvalid: a blob key is not in *blobs*, or a blob was cut at another chunk size.
        """
        self._chunk_size = chunk_size
        chunks = (node.chunks if len(node.chunks) < 2 else set(node.chunks) for node in files)
        used = {split_ref(ref)[0] for refs in chunks for ref in refs}
        for key in used:
            if key >= len(blobs):
                raise PlanInvalid(f"a file has a chunk in blob {key}, but there are {len(blobs)} blobs")
            if blobs[key].chunk_size != chunk_size:
                raise PlanInvalid(
                    f"blob {blobs[key].id} is cut at {blobs[key].chunk_size} bytes, the image at {chunk_size}"
                )
        names = {key: blobs[key].id or key for key in sorted(used)}
        self.keys: list[int] = []  # of the blobs, in blob table order
        index_of: dict[str | int, int] = {}
        for key, name in names.items():
            if name not in index_of:
                index_of[name] = len(index_of)
                self.keys.append(key)
        if len(self.keys) > MAX_BLOBS:
            raise ImageTooLarge(f"the files use {len(self.keys)} blobs, an image can have {MAX_BLOBS}")
        self.blobs = [blobs[key] for key in self.keys]
        self._index_of_key = {key: index_of[name] for key, name in names.items()}
        self._file_offsets = [array("Q", bytes(8 * len(blob.sizes))) for blob in self.blobs]

    def place_file(self, node: Node) -> tuple[int, bytes]:
        """(chunk format, chunk entries) of a regular file: what its inode says, and what follows the inode.

        Raises:
            PlanInvalid: a chunk is not in its blob, or has not the size that its place in the file asks for.
        """
        if len(node.chunks) == 1:
            return self._place_small(node)
        entries = bytearray()
        contiguous = True
        previous = (0, 0)  # device, block
        left = node.size
        # A hole has the same whole chunk up to millions of times.
        for ref, times in ((ref, len(list(run))) for ref, run in groupby(node.chunks)):
            device, chunk_index, block = self._place(ref, min(left, self._chunk_size), node, node.size - left)
            entries += _pack_entry(chunk_index & LOW_MASK, device, chunk_index >> LOW_BITS, block) * times
            contiguous &= times == 1 and (not previous[0] or (device, block) == previous)
            previous = device, block + self._chunk_size // BLOCK
            left -= self._chunk_size * times
            if times > 1:
                last = left + self._chunk_size
                self._place(ref, min(last, self._chunk_size), node, node.size - last)
        return self._chunk_format(node.size, contiguous), bytes(entries)

    def _place_small(self, node: Node) -> tuple[int, bytes]:
        device, chunk_index, block = self._place(node.chunks[0], min(node.size, self._chunk_size), node, 0)
        return self._chunk_format(node.size, False), _pack_entry(
            chunk_index & LOW_MASK, device, chunk_index >> LOW_BITS, block
        )

    def _place(self, ref: int, expected: int, node: Node, file_offset: int) -> tuple[int, int, int]:
        """(device, index, block) of a chunk that is to have *expected* bytes."""
        key, chunk_index = split_ref(ref)
        blob_index = self._index_of_key[key]
        blob = self.blobs[blob_index]
        sizes = blob.sizes
        if chunk_index >= len(sizes):
            raise PlanInvalid(
                f"blob {blob.id} has {len(sizes)} chunks, byte {file_offset} wants {chunk_index}"
            )
        found = sizes[chunk_index]
        if found != expected:
            raise PlanInvalid(
                f"chunk {chunk_index} of blob {blob.id} has {counted(found, 'byte')}, byte {file_offset}"
                f" of the file wants {expected}"
            )
        self._file_offsets[blob_index][chunk_index] = file_offset
        return blob_index + 1, chunk_index, blob.blocks[chunk_index]

    def _chunk_format(self, size: int, contiguous: bool) -> int:
        extent_bits = self._chunk_size.bit_length() - 1
        if contiguous and self._chunk_size < size <= _LARGEST_EXTENT:
            # The kernel goes by this and sees one extent; readers of RAFS go by the image's chunk size.
            extent_bits = (size - 1).bit_length()
        return extent_bits - _BLOCK_BITS | CHUNK_FORMAT_INDEXES

    def write_chunk_table(self, out: bytearray) -> None:
        """Append a row for every chunk of every blob, sorted by digest, blob and index.

        Chunks that no file uses (a higher layer replaced it) have a row as well: readers fetch and verify
        whole units, and this table is where they have the digests from.
        """
        digests: list[bytes] = []
        ends = []
        for blob in self.blobs:
            whole = bytes(blob.digests)
            digests += [whole[at : at + DIGEST_SIZE] for at in range(0, len(whole), DIGEST_SIZE)]
            ends.append(len(digests))
        # Stable, so equal digests stay in the order of blob and index.
        for number in sorted(range(len(digests)), key=digests.__getitem__):
            blob_index = bisect_right(ends, number)
            blob = self.blobs[blob_index]
            index = number - (ends[blob_index] - len(blob.sizes))
            out += _pack_row(
                digests[number],
                blob_index,
                0,  # batch members: no flags, and where they lie compressed is the unit's business
                0,
                blob.sizes[index],
                0,
                blob.blocks[index] * BLOCK,
                self._file_offsets[blob_index][index],
                index,
                0,
            )

    @property
    def chunk_table_size(self) -> int:
        return CHUNK_ROW.size * sum(len(blob.sizes) for blob in self.blobs)
