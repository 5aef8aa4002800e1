"""What an image shows: paths to inodes, attributes, names, links, xattrs and bytes.

Knows nothing of FUSE; `mount` asks it and translates. Metadata comes from the bootstrap, bytes from an
attachment of the store. Every method may be called from any number of threads: the only state is a cache of
dicts whose single operations are atomic.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from fuse_fs.errors import (
    IsADirectory,
    NoSuchAttribute,
    NoSuchEntry,
    NotADirectory,
    NotAFile,
    NotASymlink,
    ReadIncomplete,
)
from fuse_fs.first_reads import FirstReads
from rafs.bootstrap import Bootstrap, Inode, Nid
from rafs.codes import RafsFlag

BLOCK = 4096  # bytes; st_blksize, and what st_blocks is rounded up to, as in an EROFS mount of the image

# Paths whose inode number is remembered, twice (see `_remember`). A path and its number take about 0.2 KB,
# and an image has seldom more directories than this.
REMEMBERED_PATHS = 8192


class BlobBytes(Protocol):
    """What the tree needs of a `chunk_store.Attachment`."""

    def read(self, blob_index: int, offset: int, size: int) -> bytes:
        """Exactly *size* bytes of a blob's uncompressed address space, or an error."""


class Space(NamedTuple):
    """What `statfs` says. Sizes in blocks of BLOCK bytes."""

    blocks: int
    inodes: int


class ImageTree:
    """One image, as a tree of names and bytes."""

    def __init__(self, bootstrap: Bootstrap, attachment: BlobBytes) -> None:
        self._bootstrap = bootstrap
        self._attachment = attachment
        self.first_reads = FirstReads()
        self._known: dict[bytes, Nid] = {}
        self._known_before: dict[bytes, Nid] = {}

    @property
    def has_xattrs(self) -> bool:
        """Whether any inode may have extended attributes."""
        return bool(self._bootstrap.flags & RafsFlag.HAS_XATTR)

    def inode(self, path: bytes) -> Inode:
        """The inode at *path*, which is absolute and names no symbolic link on the way.

        Raises:
            NoSuchEntry, NotADirectory.
            rafs.FormatInvalid: the bootstrap is broken there.
        """
        return self._bootstrap.inode(self._find(path))

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Nid, int]]:
        """Yield (name, inode number, file type bits as in st_mode) of a directory, "." and ".." among them.

        Raises:
            as `inode`; NotADirectory.
        """
        inode = self.inode(path)
        if not stat.S_ISDIR(inode.mode):
            raise NotADirectory(f"{show(path)} is not a directory")
        for name, nid, file_type in self._bootstrap.entries(inode):
            yield name, nid, _TYPE_BITS.get(file_type) or stat.S_IFMT(self._bootstrap.inode(nid).mode)

    def symlink_target(self, path: bytes) -> bytes:
        """Where the symbolic link at *path* points.

        Raises:
            as `inode`; NotASymlink.
        """
        inode = self.inode(path)
        if not stat.S_ISLNK(inode.mode):
            raise NotASymlink(f"{show(path)} is not a symbolic link")
        return self._bootstrap.symlink_target(inode)

    def xattr_names(self, path: bytes) -> list[bytes]:
        """Full names of the extended attributes. Raises as `inode`."""
        return list(self._bootstrap.xattrs(self.inode(path)))

    def xattr(self, path: bytes, name: bytes) -> bytes:
        """The value of the extended attribute with the full name *name*.

        Raises:
            as `inode`; NoSuchAttribute.
        """
        value = self._bootstrap.xattrs(self.inode(path)).get(name)
        if value is None:
            raise NoSuchAttribute(f"{show(path)} has no attribute {show(name)}")
        return value

    def space(self) -> Space:
        """The size of the whole image: bytes of all blobs as far as chunks use them, and the bootstrap."""
        used = sum(blob.uncompressed_size for blob in self._bootstrap.blobs) + len(self._bootstrap.raw)
        return Space(-(-used // BLOCK), self._bootstrap.inode_count)

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """*size* bytes of a file from byte *offset*; fewer only where the file ends.

        Neighbouring chunks that lie one behind the other in a blob are read in one go.

        Raises:
            as `inode`; IsADirectory, NotAFile.
            ReadIncomplete: the bootstrap or the store gave fewer bytes than the file has there.
            chunk_store.StoreError: the bytes could not be had.
        """
        inode = self.inode(path)
        if not stat.S_ISREG(inode.mode):
            if stat.S_ISDIR(inode.mode):
                raise IsADirectory(f"{show(path)} is a directory")
            raise NotAFile(f"{show(path)} is neither a file nor a directory")
        stop = min(offset + size, inode.size)
        if stop <= offset:
            return b""
        self.first_reads.note(inode.nid, path, inode.size)
        runs = self._runs(inode, offset, stop)
        pieces = [self._attachment.read(blob, start, length) for blob, start, length in runs]
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(content) != stop - offset:
            raise ReadIncomplete(
                f"reading {show(path)} from {offset}: got {len(content)} bytes, expected {stop - offset}"
            )
        return content

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

    def _find(self, path: bytes) -> Nid:
        nid = self._recall(path)
        if nid is not None:
            return nid
        unknown = []
        while nid is None and path != b"/":
            unknown.append(path)
            path = path.rpartition(b"/")[0] or b"/"
            nid = self._recall(path)
        if nid is None:
            nid = self._bootstrap.root_nid
        while unknown:
            directory, path = self._bootstrap.inode(nid), unknown.pop()
            if not stat.S_ISDIR(directory.mode):
                raise NotADirectory(f"{show(path)}: a part of the way is not a directory")
            nid = self._bootstrap.lookup(directory, path.rpartition(b"/")[2])
            if nid is None:
                raise NoSuchEntry(f"{show(path)} does not exist")
            self._remember(path, nid)
        return nid

    def _recall(self, path: bytes) -> Nid | None:
        nid = self._known.get(path)
        if nid is None:
            nid = self._known_before.get(path)
            if nid is not None:
                self._remember(path, nid)
        return nid

    def _remember(self, path: bytes, nid: Nid) -> None:
        """Keep *path*. Two generations instead of an order of use: a hit costs one dict look-up, no lock."""
        if len(self._known) >= REMEMBERED_PATHS:
            self._known_before = self._known
            self._known = {}
        self._known[path] = nid


# rafs.codes.TYPE_*; other numbers are looked up in the inode, which is what the kernel trusts as well.
_TYPE_BITS = {
    1: stat.S_IFREG,
    2: stat.S_IFDIR,
    3: stat.S_IFCHR,
    4: stat.S_IFBLK,
    5: stat.S_IFIFO,
    6: stat.S_IFSOCK,
    7: stat.S_IFLNK,
}


def show(raw: bytes) -> str:
    """A name of the image for people: what is not UTF-8 becomes an escape."""
    return raw.decode("utf-8", "backslashreplace")
