"""Reader of a RAFS v6 bootstrap: the tree, its attributes, and where each file's chunks are.

It keeps the raw bytes and the tables' places, nothing per inode: every answer is read from the bytes again.
All of it may be hostile: each step is bounds-checked and each loop is bounded by the size of the bootstrap.
It does not judge the whole image (`check` does) and knows nothing of compressed data (`blob_meta`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from rafs.counted import counted

from .blob_record import BlobIndex as BlobIndex
from .blob_record import BlobRecord as BlobRecord
from .chunk_table import digests_by_blob, known_digests
from .codes import (
    CHUNK_FORMAT_BITS,
    CHUNK_FORMAT_INDEXES,
    LAYOUT_CHUNKS,
    LAYOUT_INLINE,
    MAX_SYMLINK,
    BlobFeature,
)
from .directory import entry_count, entry_name, find_entry
from .entry_words import LOW_BITS
from .errors import FormatInvalid, FormatUnsupported
from .findings import refuse
from .header import prefetch_nids, read_header
from .inode import Extent as Extent
from .inode import Inode as Inode
from .inode import Nid as Nid
from .inode import read_inode
from .records import CHUNK_ENTRY, CHUNK_ROW, DIRENT, ChunkRow
from .xattr import read_xattrs

# Four times what one system call takes; unbounded, a chain of long names costs quadratic time.
MAX_PATH = 1 << 14


class Bootstrap:
    """A bootstrap opened for reading. Immutable but for one cache; safe from any thread."""

    def __init__(self, raw: bytes | memoryview) -> None:
        """Read the superblocks and tables of *raw*, which must not change afterwards.

        A mapped file passed as bytes is read where it is: nothing is done with *raw* that `mmap` does not.

        Raises:
            FormatInvalid: a rule without which nothing can be read is broken.
            FormatUnsupported: RAFS v5, or external blobs.
        """
        # Indexed, sliced, searched and unpacked from.
        self._raw = raw = bytes(raw) if isinstance(raw, memoryview | bytearray) else raw
        header = read_header(raw, refuse)
        if header is None:
            raise FormatInvalid("bootstrap refused: its tables do not describe an image")
        self.header = header
        self.superblock = header.superblock
        self.flags = header.flags
        self.chunk_size = header.extended.chunk_size
        self.block_size = header.block_size
        self.blobs = header.blobs
        self.root_nid = Nid(header.superblock.root_nid)
        self.inode_count = header.superblock.inode_count
        self._meta = header.meta_offset
        self._digests: tuple[bytes | FormatInvalid, ...] | None = None

    @property
    def raw(self) -> bytes:
        """The bytes it reads from; a copy if they are mapped."""
        return bytes(self._raw)

    @property
    def is_tarfs(self) -> bool:
        """Whether its blobs are plain tars, addressed in blocks of 512 bytes."""
        return self.header.is_tarfs

    @property
    def size(self) -> int:
        """Bytes of the whole bootstrap."""
        return len(self._raw)

    def inode(self, nid: int) -> Inode:
        """The inode with number *nid*.

        Raises:
            FormatInvalid: it lies outside the bootstrap, or is of no form that RAFS uses.
        """
        return read_inode(self._raw, self._meta, nid, self.superblock)

    def lookup(self, directory: Inode, name: bytes) -> Nid | None:
        """The inode number under *name*, or None. Binary search, as the kernel does it.

        Where names are not sorted it may miss one that `entries` shows; `check` reports such directories.

        Raises:
            FormatInvalid: *directory* is none, or a block of it is broken.
        """
        self._require_directory(directory)
        raw, nid = self._raw, directory.nid
        low, high = 0, -(-directory.size // self.block_size) - 1
        if high < 0:
            return None
        while low < high:
            middle = (low + high + 1) // 2
            start, end = self._block(directory, middle)
            if entry_name(raw, start, end, nid, 0, entry_count(raw, start, end, nid)) <= name:
                low = middle
            else:
                high = middle - 1
        start, end = self._block(directory, low)
        place = find_entry(raw, start, end, nid, name)
        return None if place is None else Nid(DIRENT.struct.unpack_from(raw, place)[0])

    def entries(self, directory: Inode) -> Iterator[tuple[bytes, Nid, int]]:
        """Yield (name, nid, file type) in stored order, "." and ".." among them.

        Raises:
            FormatInvalid: *directory* is none, or a block of it is broken.
        """
        self._require_directory(directory)
        for index in range(-(-directory.size // self.block_size)):
            yield from self.entries_in(directory, index)

    def entries_in(self, directory: Inode, index: int, first: int = 0) -> Iterator[tuple[bytes, Nid, int]]:
        """As `entries`, of block *index* of what is known to be a directory, from its entry *first* on.

        Raises:
            FormatInvalid: the block is broken.
        """
        raw = self._raw
        start, end = self._block(directory, index)
        count = entry_count(raw, start, end, directory.nid)
        for position in range(first, count):
            nid, _, file_type, _ = DIRENT.struct.unpack_from(raw, start + position * DIRENT.size)
            yield entry_name(raw, start, end, directory.nid, position, count), nid, file_type

    def children(self, directory: Inode) -> Iterator[int]:
        """Yield the inode numbers of the entries without looking at their names, "." and ".." among them.

        Raises:
            FormatInvalid: *directory* is none, or a block of it is broken.
        """
        self._require_directory(directory)
        raw = self._raw
        for index in range(-(-directory.size // self.block_size)):
            start, end = self._block(directory, index)
            count = entry_count(raw, start, end, directory.nid)
            for nid, _, _, _ in DIRENT.struct.iter_unpack(raw[start : start + count * DIRENT.size]):
                yield nid

    def symlink_target(self, inode: Inode) -> bytes:
        """Where the symbolic link points.

        Raises:
            FormatInvalid: *inode* is none, or its target is empty, longer than 4096 bytes or out of bounds.
        """
        if not stat.S_ISLNK(inode.mode):
            raise FormatInvalid(f"inode {inode.nid}: mode {inode.mode:o} is not a symbolic link")
        if not 0 < inode.size <= MAX_SYMLINK:
            raise FormatInvalid(
                f"inode {inode.nid}: symlink of {inode.size} bytes, expected 1 to {MAX_SYMLINK}"
            )
        pieces = []
        for index in range(-(-inode.size // self.block_size)):
            start, end = self._block(inode, index)
            pieces.append(self._raw[start:end])
        return b"".join(pieces)

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """The extended attributes by full name ("user.x"), in stored order.

        Raises:
            FormatInvalid: the area is out of bounds, or an entry in it is broken.
        """
        return read_xattrs(self._raw, inode)

    def extents(self, inode: Inode, start: int = 0, stop: int | None = None) -> list[Extent]:
        """The chunks of a regular file that overlap its bytes *start* to *stop* (default: its end), in order.

        Raises:
            FormatInvalid: not a regular file, or an entry names a blob, chunk or place that does not exist.
        """
        if not stat.S_ISREG(inode.mode):
            raise FormatInvalid(f"inode {inode.nid}: mode {inode.mode:o} is not a regular file")
        stop = inode.size if stop is None else min(stop, inode.size)
        if stop <= start:
            return []
        first, offset = self._chunk_entries(inode)
        chunk_size, raw, blobs = self.chunk_size, self._raw, self.blobs
        found = []
        for number in range(start // chunk_size, -(-stop // chunk_size)):
            low, device, high, block = CHUNK_ENTRY.struct.unpack_from(raw, first + number * CHUNK_ENTRY.size)
            index, offset = low | high << LOW_BITS, number * chunk_size
            size = min(chunk_size, inode.size - offset)
            if not 0 < device <= len(blobs):
                raise FormatInvalid(
                    f"inode {inode.nid}: chunk at {offset} is in blob {device - 1} of {len(blobs)}"
                )
            blob = blobs[device - 1]
            blob_offset = block * self.block_size
            if blob_offset + size > blob.uncompressed_size:
                raise FormatInvalid(
                    f"inode {inode.nid}: chunk at {offset} lies at {blob_offset} in blob {device - 1},"
                    f" which has {blob.uncompressed_size} bytes"
                )
            if index >= blob.chunk_count and not blob.features & BlobFeature.TARFS:
                raise FormatInvalid(
                    f"inode {inode.nid}: chunk at {offset} is chunk {index} of blob {device - 1},"
                    f" which has {blob.chunk_count}"
                )
            found.append(Extent(offset, blob.index, index, blob_offset, size))
        return found

    def chunk_entries(self, inode: Inode) -> bytes:
        """The chunk entries of a regular file that is not empty as they are stored, 8 bytes each, unchecked.

        Raises:
            FormatInvalid: they do not lie in the bootstrap, or the file is not stored in chunks.
        """
        start, end = self._chunk_entries(inode)
        return self._raw[start:end]

    def chunk_entries_at(self, inode: Inode) -> int:
        """Where in the bootstrap `chunk_entries` lie, in bytes; raises the same."""
        return self._chunk_entries(inode)[0]

    def chunk_digests(self, blob_index: int) -> bytes:
        """The digests of all chunks of a blob, 32 bytes each, by chunk index.

        The first call reads those of all blobs and keeps them.

        Raises:
            FormatInvalid: there is no such blob, or the chunk table lacks one of its chunks.
            FormatUnsupported: a tarfs blob: it has no digests.
        """
        if not 0 <= blob_index < len(self.blobs):
            raise FormatInvalid(f"there is no blob {blob_index} among {len(self.blobs)}")
        if self.blobs[blob_index].features & BlobFeature.TARFS:
            raise FormatUnsupported("tarfs", f"blob {blob_index} has no chunk digests")
        if self._digests is None:
            start, size = self.header.extended.chunk_table_offset, self.header.extended.chunk_table_size
            self._digests = digests_by_blob(self._raw[start : start + size], self.blobs)
        found = self._digests[blob_index]
        if isinstance(found, FormatInvalid):
            raise found
        return found

    def known_digests(self, blob_index: int) -> tuple[bytes, bytes]:
        """(digests, unknown) of a blob as far as the chunk table has them: merging leaves out unused chunks.

        As `chunk_table.known_digests`.

        Takes memory for as many chunks as the blob table promises: compare that with the chunk info first.

        Raises:
            FormatInvalid: there is no such blob.
        """
        if not 0 <= blob_index < len(self.blobs):
            raise FormatInvalid(f"there is no blob {blob_index} among {len(self.blobs)}")
        start, size = self.header.extended.chunk_table_offset, self.header.extended.chunk_table_size
        return known_digests(self._raw[start : start + size], self.blobs[blob_index])

    def chunk_rows(self) -> Iterator[ChunkRow]:
        """Yield the rows of the chunk table as they are stored, unchecked."""
        start, size = self.header.extended.chunk_table_offset, self.header.extended.chunk_table_size
        return CHUNK_ROW.unpack_all(memoryview(self._raw)[start : start + size])

    def prefetch_nids(self) -> tuple[Nid, ...]:
        """The inode numbers to fetch first, in order.

        The root alone means everything, a directory its subtree.
        """
        return tuple(map(Nid, prefetch_nids(self._raw, self.header)))

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Yield (path, inode) of every name, depth first, in the order of the directories. The root is b"/".

        Raises:
            FormatInvalid: a directory is reached twice, directories overlap, or a path exceeds `MAX_PATH`.
        """
        root = self.inode(self.root_nid)
        yield b"/", root
        seen = {self.root_nid}
        budget = len(self._raw) - root.size
        stack = [(b"/", self.entries(root))]
        while stack:
            parent, names = stack[-1]
            for name, nid, _ in names:
                if name in (b".", b".."):
                    continue
                inode, path = self.inode(nid), parent + name
                if not stat.S_ISDIR(inode.mode):
                    yield path, inode
                    continue
                budget -= inode.size
                if nid in seen:
                    raise FormatInvalid(
                        f"directory inode {nid} is reached twice, the second time as {path!r}"
                    )
                if budget < 0 or len(path) > MAX_PATH:
                    raise FormatInvalid(f"at directory inode {nid}: directories overlap, or nest too deeply")
                seen.add(nid)
                yield path, inode
                stack.append((path + b"/", self.entries(inode)))
                break
            else:
                stack.pop()

    def _require_directory(self, inode: Inode) -> None:
        if not stat.S_ISDIR(inode.mode):
            raise FormatInvalid(f"inode {inode.nid}: mode {inode.mode:o} is not a directory")

    def _block(self, inode: Inode, index: int) -> tuple[int, int]:
        """Where block *index* of a directory or symlink lies in the bootstrap."""
        size, block_size = inode.size, self.block_size
        tail = size % block_size
        if inode.layout == LAYOUT_INLINE and index == size // block_size:
            start = inode.xattr_offset + inode.xattr_size
            end = start + tail
        elif inode.layout == LAYOUT_CHUNKS:
            raise FormatInvalid(f"inode {inode.nid}: a directory or symlink cannot be in chunks")
        else:
            start = (inode.i_u + index) * block_size
            end = start + min(block_size, size - index * block_size)
        if end > len(self._raw):
            raise FormatInvalid(f"inode {inode.nid}: block {index} ends at {end:#x}, beyond the bootstrap")
        return start, end

    def _chunk_entries(self, inode: Inode) -> tuple[int, int]:
        """Where the chunk entries of a file that is not empty lie, after checking that all of them exist."""
        if inode.layout != LAYOUT_CHUNKS:
            raise FormatInvalid(f"inode {inode.nid}: a regular file of layout {inode.layout}, not in chunks")
        if inode.i_u & ~(CHUNK_FORMAT_BITS) != CHUNK_FORMAT_INDEXES:
            raise FormatInvalid(f"inode {inode.nid}: chunk format {inode.i_u:#x} is not one of RAFS")
        start = inode.xattr_offset + inode.xattr_size
        start += -start % CHUNK_ENTRY.size
        end = start + -(-inode.size // self.chunk_size) * CHUNK_ENTRY.size
        if end > len(self._raw):
            raise FormatInvalid(
                f"inode {inode.nid}: {counted(inode.size, 'byte')} need chunk entries up to {end:#x}"
            )
        return start, end
