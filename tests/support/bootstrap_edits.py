"""Single fields of a bootstrap changed in place: what a refusal corpus is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rafs.bootstrap import Bootstrap, Inode
from rafs.records import (
    BLOB_ENTRY,
    CHUNK_ENTRY,
    CHUNK_ROW,
    DEVICE_SLOT,
    DIRENT,
    EXTENDED_SUPERBLOCK,
    INODE_EXTENDED,
    SUPERBLOCK,
    Layout,
)

Edit = Callable[["Editor"], object]


class Editor:
    """A bootstrap of our own writer (extended inodes, small directories), open for changes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = bytearray(raw)
        self._good = Bootstrap(raw)
        self._inodes = dict(self._good.walk())

    def inode_of(self, path: bytes) -> Inode:
        """The inode as it was before any change."""
        return self._inodes[path]

    def superblock(self, **changes: Any) -> None:
        self._change(SUPERBLOCK, 0x400, changes)

    def extended(self, **changes: Any) -> None:
        self._change(EXTENDED_SUPERBLOCK, 0x480, changes)

    def slot(self, index: int, **changes: Any) -> None:
        self._change(DEVICE_SLOT, 0x580 + 128 * index, changes)

    def blob(self, index: int, **changes: Any) -> None:
        self._change(BLOB_ENTRY, self._good.header.extended.blob_table_offset + 256 * index, changes)

    def row(self, index: int, **changes: Any) -> None:
        self._change(CHUNK_ROW, self._good.header.extended.chunk_table_offset + 80 * index, changes)

    def inode(self, path: bytes, **changes: Any) -> None:
        self._change(INODE_EXTENDED, self.inode_of(path).xattr_offset - 64, changes)

    def chunk_entry(self, path: bytes, position: int, **changes: Any) -> None:
        inode = self.inode_of(path)
        start = inode.xattr_offset + inode.xattr_size
        self._change(CHUNK_ENTRY, start + -start % 8 + 8 * position, changes)

    def dirent(self, path: bytes, name: bytes, **changes: Any) -> None:
        """The entry *name* of the directory *path*, which must be stored inline."""
        inode = self.inode_of(path)
        names = [entry for entry, _, _ in self._good.entries(inode)]
        start = inode.xattr_offset + inode.xattr_size
        self._change(DIRENT, start + 12 * names.index(name), changes)

    def replace(self, old: bytes, new: bytes) -> None:
        """The only place of *old* becomes *new*, of the same length."""
        assert self.raw.count(old) == 1
        assert len(old) == len(new)
        self.raw[:] = self.raw.replace(old, new)

    def write(self, offset: int, content: bytes) -> None:
        self.raw[offset : offset + len(content)] = content

    def cut(self, size: int) -> None:
        """Only the first *size* bytes stay; less than 0: that many are taken off the end."""
        del self.raw[size:]

    def _change(self, layout: Layout[Any], offset: int, changes: dict[str, Any]) -> None:
        record = layout.unpack(bytes(self.raw), offset)
        new = {
            name: value(getattr(record, name)) if callable(value) else value
            for name, value in changes.items()
        }
        self.write(offset, layout.pack(record._replace(**new)))


def edited(raw: bytes, edit: Edit) -> bytes:
    """*raw* with *edit* made."""
    editor = Editor(raw)
    edit(editor)
    return bytes(editor.raw)
