"""The rules of inodes and directories: every name, every attribute and every reference between them.

One pass over the tree, each inode once. Whoever wants all rules of a bootstrap calls `check.check_bootstrap`.
"""

from __future__ import annotations

import stat
import struct
from itertools import pairwise

from rafs.counted import counted

from .bootstrap import MAX_PATH
from .codes import (
    CHUNK_FORMAT_BITS,
    CHUNK_FORMAT_INDEXES,
    LAYOUT_CHUNKS,
    LAYOUT_INLINE,
    LAYOUT_PLAIN,
    MAX_SYMLINK,
    TYPE_OF_MODE,
    BlobFeature,
    RafsFlag,
)
from .directory import entry_count, entry_name
from .entry_words import BLOCK_SHIFT, DEVICE_MASK, DEVICE_SHIFT, split_entry
from .errors import FormatInvalid
from .findings import Finding, Report
from .header import Header, prefetch_nids
from .inode import Inode, read_inode
from .records import CHUNK_ENTRY, DIRENT, INODE_COMPACT, INODE_EXTENDED
from .xattr import read_xattrs

Path = tuple[bytes, bytes]  # folder and name, joined only where something is wrong

_NSEC = 1_000_000_000
_HIGH_BITS = 6  # byte of an extended inode
_DIRECTORY = TYPE_OF_MODE[stat.S_IFDIR >> 12]
_SHOWN = 200  # bytes of a path that a message repeats
_SHIFT = 40  # two byte offsets in one integer: tuples would cost three times as long to sort
_MASK = (1 << _SHIFT) - 1


class TreeCheck:
    """One check of one tree. Used once."""

    def __init__(self, raw: bytes, header: Header, sizes: dict[int, int], report: Report) -> None:
        """*sizes*: chunk sizes by the 8-byte chunk entry that refers to them, from the chunk table."""
        self._raw = raw
        self._header = header
        self._sizes = sizes
        self._report = report
        self._block = header.block_size
        self._chunk_size = header.extended.chunk_size
        self._tarfs = header.is_tarfs
        self._missing_links: dict[int, int] = {}  # by nid: link count less the names found
        self._modes: dict[int, int] = {}
        self._spans: list[int] = [start << _SHIFT | end for start, end, _ in header.tables()]
        # Nothing may overlap, so directories and entries together cannot have more bytes than there are.
        # Without this bound, many inodes that share one large directory would make the check quadratic.
        self._budget = len(raw)
        self._names = 0
        self._has_xattrs = False

    def run(self) -> None:
        """Report every broken rule."""
        header = self._header
        root = header.superblock.root_nid
        inode = self._visit(root, (b"", b"/"))
        if inode is None:
            return
        if not stat.S_ISDIR(inode.mode):
            self._tell(
                "root", (b"", b"/"), f"inode {root} has mode {inode.mode:o}, the root must be a directory"
            )
            return
        self._missing_links[root] -= 1  # the name "/" that no directory holds
        stack = [(inode, root, b"", b"/")]
        while stack and self._budget >= 0:
            directory, parent, folder, name = stack.pop()
            stack += self._check_directory(directory, parent, folder + name)
        if self._budget < 0:
            self._report(
                Finding(
                    "overlap", "inodes", "directories, xattrs and chunk lists have more bytes than the image"
                )
            )
            return
        self._check_totals()

    def _tell(self, rule: str, path: Path, message: str) -> None:
        joined = path[0] + path[1]
        where = joined if len(joined) <= _SHOWN else b"..." + joined[-_SHOWN:]
        self._report(Finding(rule, repr(where)[1:], message))

    def _check_directory(
        self, directory: Inode, parent: int, path: bytes
    ) -> list[tuple[Inode, int, bytes, bytes]]:
        """Judge one directory and its inodes; its subdirectories as (inode, parent nid, folder, name)."""
        raw, nid, block = self._raw, directory.nid, self._block
        folders: list[tuple[Inode, int, bytes, bytes]] = []
        prefix = path if path == b"/" else path + b"/"
        previous, dots, here = b"", 0, (path, b"")
        if len(path) > MAX_PATH:
            self._tell("path-length", here, f"{len(path)} bytes, at most {MAX_PATH}")
            return folders
        self._budget -= directory.size
        if self._budget < 0:
            return []
        for index in range(-(-directory.size // block)):
            try:
                start, end = self._place(directory, index)
                count = entry_count(raw, start, end, nid)
                names = [entry_name(raw, start, end, nid, position, count) for position in range(count)]
            except FormatInvalid as error:
                self._tell("directory-block", here, str(error))
                return folders
            entries = DIRENT.struct.iter_unpack(raw[start : start + count * DIRENT.size])
            for name, (child, _, file_type, _) in zip(names, entries, strict=True):
                if name <= previous:
                    self._tell("directory-order", here, f"name {name!r} follows {previous!r}")
                previous = name
                if name in (b".", b".."):
                    dots += 1
                    if file_type != _DIRECTORY:
                        self._tell(
                            "entry-type", (prefix, name), f"entry has type {file_type}, expected {_DIRECTORY}"
                        )
                    wanted = nid if name == b"." else parent
                    if child != wanted:
                        self._tell(
                            "directory-dots", here, f"{name.decode()} is inode {child}, expected {wanted}"
                        )
                    continue
                self._names += 1
                known = self._modes.get(child)
                inode = self._visit(child, (prefix, name)) if known is None else None
                mode = inode.mode if inode is not None else known
                if mode is None:
                    continue
                self._missing_links[child] -= 1
                if TYPE_OF_MODE[mode >> 12] != file_type:
                    self._tell(
                        "entry-type", (prefix, name), f"entry has type {file_type}, its inode mode {mode:o}"
                    )
                if stat.S_ISDIR(mode):
                    if inode is None:
                        self._tell(
                            "directory-twice", (prefix, name), f"directory inode {child} has another name"
                        )
                    else:
                        self._missing_links[nid] -= 1
                        folders.append((inode, nid, prefix, name))
        if dots != 2:
            self._tell("directory-dots", here, "'.' or '..' is missing")
        return folders

    def _visit(self, nid: int, path: Path) -> Inode | None:
        """The inode, judged; None if it cannot be read."""
        try:
            inode = read_inode(self._raw, self._header.meta_offset, nid, self._header.superblock)
        except FormatInvalid as error:
            self._tell("inode", path, str(error))
            return None
        mode = inode.mode
        self._modes[nid] = mode
        # A directory's count is 2 (its name and ".") and one ".." per subdirectory.
        self._missing_links[nid] = inode.nlink - 1 if stat.S_ISDIR(mode) else inode.nlink
        if inode.mtime_ns >= _NSEC:
            self._tell("mtime", path, f"{inode.mtime_ns} nanoseconds")
        end = inode.xattr_offset + inode.xattr_size
        if inode.xattr_size:
            self._has_xattrs = True
            self._budget -= inode.xattr_size
            if self._budget < 0:
                return inode
            try:
                if not read_xattrs(self._raw, inode):
                    self._tell("xattr", path, "the xattr area is empty; the kernel refuses that")
            except FormatInvalid as error:
                self._tell("xattr", path, str(error))
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFREG:
            end = self._check_file(inode, path, end)
        elif kind in (stat.S_IFDIR, stat.S_IFLNK):
            end = self._check_content(inode, path, end)
        elif not TYPE_OF_MODE[mode >> 12]:
            self._tell("mode", path, f"mode {mode:o} has no file type")
        elif inode.size or inode.layout != LAYOUT_PLAIN:
            self._tell(
                "layout",
                path,
                f"mode {mode:o} with {counted(inode.size, 'byte')} in layout {inode.layout}",
            )
        start = inode.xattr_offset - (INODE_EXTENDED.size if inode.extended else INODE_COMPACT.size)
        if inode.extended and any(self._raw[start + _HIGH_BITS : start + _HIGH_BITS + 2]):
            self._tell("inode-reserved", path, "high bits of a block address, which the kernel goes by")
        self._spans.append(start << _SHIFT | min(end, len(self._raw)))
        return inode

    def _check_file(self, inode: Inode, path: Path, end: int) -> int:
        """Judge a regular file; the end of its chunk entries."""
        if not inode.size:
            return end
        if inode.layout != LAYOUT_CHUNKS:
            self._tell(
                "layout", path, f"a regular file in layout {inode.layout}, expected {LAYOUT_CHUNKS} (chunks)"
            )
            return end
        if inode.i_u & ~CHUNK_FORMAT_BITS != CHUNK_FORMAT_INDEXES:
            self._tell(
                "chunk-format",
                path,
                f"chunk format {inode.i_u:#x}, expected {CHUNK_FORMAT_INDEXES:#x} + a size",
            )
            return end
        start = end + -end % CHUNK_ENTRY.size
        count = -(-inode.size // self._chunk_size)
        end = start + count * CHUNK_ENTRY.size
        self._budget -= end - start
        if end > len(self._raw):
            self._tell("chunk-entries", path, f"{count} chunk entries end at {end:#x}, beyond the bootstrap")
            return start
        if self._budget < 0:
            return start
        entries: tuple[int, ...] = struct.unpack_from(f"<{count}Q", self._raw, start)
        left = inode.size
        for position, entry in enumerate(entries):
            size = min(left, self._chunk_size)
            left -= size
            if self._sizes.get(entry) != size:
                self._explain(path, position, entry, size)
        extent = self._block << (inode.i_u & CHUNK_FORMAT_BITS)
        if extent != self._chunk_size and (extent < inode.size or not self._is_one_extent(entries)):
            self._tell(
                "chunk-format", path, f"extents of {extent} bytes, but chunks of {self._chunk_size} apart"
            )
        return end

    def _explain(self, path: Path, position: int, entry: int, size: int) -> None:
        number, index, block = split_entry(entry)
        blobs = self._header.blobs
        if not 0 <= number < len(blobs):
            self._tell("chunk-device", path, f"chunk {position} is on device {number + 1} of {len(blobs)}")
            return
        blob = blobs[number]
        if block * self._block + size > blob.uncompressed_size:
            self._tell(
                "chunk-block",
                path,
                f"chunk {position} ends beyond blob {number}: block {block}, {counted(size, 'byte')}",
            )
        elif blob.features & BlobFeature.TARFS:
            return
        elif index >= blob.chunk_count:
            self._tell(
                "chunk-index",
                path,
                f"chunk {position} is chunk {index} of {blob.chunk_count}, blob {number}",
            )
        elif entry in self._sizes:
            found = self._sizes[entry]
            self._tell(
                "chunk-size",
                path,
                f"chunk {position} has {counted(found, 'byte')} by the chunk table, {size} by the file",
            )
        else:
            message = f"chunk {position}: no row for chunk {index} of blob {number} at block {block}"
            self._tell("chunk-row", path, message)

    def _is_one_extent(self, entries: tuple[int, ...]) -> bool:
        step = self._chunk_size // self._block
        places = ((entry >> DEVICE_SHIFT & DEVICE_MASK, entry >> BLOCK_SHIFT) for entry in entries)
        return all(
            following == (device, block + step) for (device, block), following in pairwise(places)
        )

    def _check_content(self, inode: Inode, path: Path, end: int) -> int:
        """Judge the place of a directory's or symlink's bytes; the end of what follows the inode."""
        if stat.S_ISLNK(inode.mode) and not 0 < inode.size <= MAX_SYMLINK:
            self._tell("symlink", path, f"target of {inode.size} bytes, expected 1 to {MAX_SYMLINK}")
            return end
        if inode.layout not in (LAYOUT_PLAIN, LAYOUT_INLINE):
            self._tell("layout", path, f"mode {inode.mode:o} in layout {inode.layout}")
            return end
        tail = inode.size % self._block if inode.layout == LAYOUT_INLINE else 0
        blocks = inode.size - tail
        if blocks:
            start = inode.i_u * self._block
            if start + blocks > len(self._raw):
                self._tell("content", path, f"{blocks} bytes at block {inode.i_u} end beyond the bootstrap")
                return end
            self._spans.append(start << _SHIFT | start + blocks)
        if tail and (end // self._block != (end + tail - 1) // self._block or end + tail > len(self._raw)):
            self._tell("content", path, f"{tail} bytes after the inode, at {end:#x}, cross a block")
        elif stat.S_ISLNK(inode.mode):
            start, stop = (end, end + tail) if tail == inode.size else self._place(inode, 0)
            if b"\0" in self._raw[start:stop]:
                self._tell("symlink", path, "the target has a NUL")
        return end + tail

    def _place(self, directory: Inode, index: int) -> tuple[int, int]:
        """Where block *index* of a directory lies; what `_check_content` reported is an error here."""
        size, block = directory.size, self._block
        if directory.layout == LAYOUT_INLINE and index == size // block:
            start = directory.xattr_offset + directory.xattr_size
        else:
            start = (directory.i_u + index) * block
        end = start + min(block, size - index * block)
        if end > len(self._raw) or directory.layout == LAYOUT_CHUNKS:
            raise FormatInvalid(f"directory inode {directory.nid}: block {index} is not in the bootstrap")
        return start, end

    def _check_totals(self) -> None:
        header, where = self._header, "superblock"
        for nid, missing in self._missing_links.items():
            # Other builders copy the link count of special files whose links they separate.
            if missing and (stat.S_ISDIR(self._modes[nid]) or stat.S_ISREG(self._modes[nid])):
                self._report(Finding("nlink", f"inode {nid}", f"link count is wrong by {missing}"))
        if header.superblock.inode_count != self._names + 1:
            found = header.superblock.inode_count
            self._report(
                Finding("inode-count", where, f"{found} inodes, the tree has {self._names + 1} names")
            )
        if self._has_xattrs and not header.extended.flags & RafsFlag.HAS_XATTR:
            self._report(
                Finding("flags-xattr", "extended superblock", "there are xattrs, but HAS_XATTR is not set")
            )
        for nid in prefetch_nids(self._raw, header):
            if nid not in self._modes:
                self._report(Finding("prefetch", "prefetch table", f"inode {nid} is not in the tree"))
        self._spans.sort()
        for this, following in pairwise(self._spans):
            end, start = this & _MASK, following >> _SHIFT
            if start < end:
                self._report(
                    Finding("overlap", f"bytes {start:#x}", f"overlap what starts at {this >> _SHIFT:#x}")
                )
