"""What an image shows: inodes, names, links, xattrs and bytes, by inode number.

Knows nothing of FUSE: `operations` asks it and translates, and `paths` for libfuse. Metadata comes from the
bootstrap, bytes from an attachment of the store. Every method may be called from any number of threads.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from fuse_fs.errors import (
    IsADirectory,
    NoSuchEntry,
    NotADirectory,
    NotAFile,
    NotASymlink,
    ReadIncomplete,
)
from fuse_fs.first_reads import FirstReads
from fuse_fs.names import Names
from rafs.bootstrap import Bootstrap, Inode, Nid
from rafs.codes import TYPE_OF_MODE, RafsFlag
from rafs.directory import name_text

BLOCK = 4096  # bytes; st_blksize, and what st_blocks is rounded up to, as in an EROFS mount of the image


class BlobBytes(Protocol):
    """What the tree needs of a `chunk_store.Attachment`."""

    def read(self, blob_index: int, offset: int, size: int, until: float | None = None) -> bytes:
        """Exactly *size* bytes of a blob's uncompressed address space, or an error; by *until* at the latest,
        in seconds of the monotonic clock.
        """

    def read_into(self, into: memoryview, blob_index: int, offset: int, *, from_disk: bool) -> bool:
        """Whether *into* was filled as `read` would; only with what is here, waiting for no network, and for
        the disk only if *from_disk*.
        """

    def is_local(self, blob_index: int, offset: int, size: int) -> bool:
        """Whether reading these bytes would not have to wait."""


class Space(NamedTuple):
    """What `statfs` says. Sizes in blocks of BLOCK bytes."""

    blocks: int
    inodes: int


class ImageTree:
    """One image, as a tree of names and bytes."""

    def __init__(self, bootstrap: Bootstrap, attachment: BlobBytes) -> None:
        self._bootstrap = bootstrap
        self._attachment = attachment
        self._names = Names(bootstrap)
        self.first_reads = FirstReads()
        self.root = bootstrap.root_nid
        self.block_size = bootstrap.block_size

    @property
    def has_xattrs(self) -> bool:
        """Whether any inode may have extended attributes."""
        return bool(self._bootstrap.flags & RafsFlag.HAS_XATTR)

    def inode(self, nid: Nid) -> Inode:
        """The inode with that number.

        Raises:
            rafs.FormatInvalid: the bootstrap has none there.
        """
        return self._bootstrap.inode(nid)

    def lookup(self, directory: Inode, name: bytes) -> Nid:
        """The number of the inode that is called *name* in *directory*.

        Raises:
            NoSuchEntry, NotADirectory.
            rafs.FormatInvalid: the bootstrap is broken there.
        """
        if not stat.S_ISDIR(directory.mode):
            raise NotADirectory(f"inode {directory.nid} is not a directory")
        found = self._bootstrap.lookup(directory, name)
        if found is None:
            raise NoSuchEntry(f"{name_text(name)} does not exist in inode {directory.nid}")
        return found

    def entries(self, directory: Inode, place: int = 0) -> Iterator[tuple[bytes, Nid, int, int]]:
        """Yield (name, inode number, file type bits as in st_mode, place of what follows) of a directory from
        *place* on, "." and ".." among them. It begins at place 0.

        Raises:
            NotADirectory.
            rafs.FormatInvalid: the bootstrap is broken there.
        """
        if not stat.S_ISDIR(directory.mode):
            raise NotADirectory(f"inode {directory.nid} is not a directory")
        # A block has fewer entries than bytes.
        block, first = divmod(place, self.block_size)
        for index in range(block, -(-directory.size // self.block_size)):
            behind = index * self.block_size + first
            for name, nid, file_type in self._bootstrap.entries_in(directory, index, first):
                behind += 1
                yield name, nid, _TYPE_BITS.get(file_type) or stat.S_IFMT(self.inode(nid).mode), behind
            first = 0

    def symlink_target(self, inode: Inode) -> bytes:
        """Where the symbolic link points.

        Raises:
            NotASymlink.
            rafs.FormatInvalid: the bootstrap is broken there.
        """
        if not stat.S_ISLNK(inode.mode):
            raise NotASymlink(f"inode {inode.nid} is not a symbolic link")
        return self._bootstrap.symlink_target(inode)

    def xattrs(self, inode: Inode) -> Mapping[bytes, bytes]:
        """Values of the extended attributes by their full names.

        Raises:
            rafs.FormatInvalid: the bootstrap is broken there.
        """
        return self._bootstrap.xattrs(inode)

    def space(self) -> Space:
        """The size of the whole image: bytes of all blobs as far as chunks use them, and the bootstrap."""
        used = sum(blob.uncompressed_size for blob in self._bootstrap.blobs) + self._bootstrap.size
        return Space(-(-used // BLOCK), self._bootstrap.inode_count)

    def paths(self, nids: Iterable[Nid]) -> list[bytes]:
        """A path that leads to each inode, for people; the first call walks through the image."""
        return self._names.paths(nids)

    def read(self, inode: Inode, offset: int, size: int, until: float | None = None) -> bytes:
        """*size* bytes of a file from byte *offset*; fewer only where the file ends.

        Neighbouring chunks that lie one behind the other in a blob are read in one go, each run of them by
        *until* at the latest.

        Raises:
            IsADirectory, NotAFile.
            rafs.FormatInvalid: the bootstrap is broken there.
            ReadIncomplete: the bootstrap or the store gave fewer bytes than the file has there.
            chunk_store.StoreError: the bytes could not be had.
        """
        if not stat.S_ISREG(inode.mode):
            if stat.S_ISDIR(inode.mode):
                raise IsADirectory(f"inode {inode.nid} is a directory")
            raise NotAFile(f"inode {inode.nid} is neither a file nor a directory")
        stop = min(offset + size, inode.size)
        if stop <= offset:
            return b""
        self.first_reads.note(inode.nid)
        runs = self._runs(inode, offset, stop)
        pieces = [self._attachment.read(blob, start, length, until) for blob, start, length in runs]
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(content) != stop - offset:
            raise ReadIncomplete(
                f"reading inode {inode.nid} from {offset}: got {len(content)} bytes, expected {stop - offset}"
            )
        return content

    def read_into(self, into: memoryview, inode: Inode, offset: int, *, from_disk: bool) -> int | None:
        """As `read` of as many bytes as *into* has room for, of what is here: how many were put there.

        None if the network would have to be waited for or, unless *from_disk*, the disk.

        Raises:
            rafs.FormatInvalid: the bootstrap is broken there.
            chunk_store.RangeOutside: it names bytes that the blob does not have.
        """
        stop = min(offset + len(into), inode.size)
        if not stat.S_ISREG(inode.mode) or stop <= offset:
            return None
        at = 0
        for blob, start, length in self._runs(inode, offset, stop):
            if not self._attachment.read_into(into[at : at + length], blob, start, from_disk=from_disk):
                return None
            at += length
        self.first_reads.note(inode.nid)
        return at if at == stop - offset else None

    def is_local(self, inode: Inode, offset: int, size: int) -> bool:
        """Whether `read` of these bytes of a file would not have to wait, as far as is known.

        Raises:
            rafs.FormatInvalid: the bootstrap is broken there.
        """
        stop = min(offset + size, inode.size)
        runs = self._runs(inode, offset, stop) if offset < stop else []
        return all(self._attachment.is_local(*run) for run in runs)

    def _runs(self, inode: Inode, offset: int, stop: int) -> list[tuple[int, int, int]]:
        """(blob, place in it, length) of the bytes *offset* to *stop*; what touches is one run."""
        runs: list[tuple[int, int, int]] = []
        end_blob = end = -1
        for extent in self._bootstrap.extents(inode, offset, stop):
            skipped = max(offset - extent.file_offset, 0)
            start = extent.blob_offset + skipped
            length = min(extent.size, stop - extent.file_offset) - skipped
            if extent.blob_index == end_blob and start == end:
                blob, first, before = runs[-1]
                runs[-1] = (blob, first, before + length)
            else:
                runs.append((extent.blob_index, start, length))
            end_blob, end = extent.blob_index, start + length
        return runs


# Other numbers are looked up in the inode, which is what the kernel trusts as well.
_TYPE_BITS = {file_type: high << 12 for high, file_type in enumerate(TYPE_OF_MODE) if file_type}
