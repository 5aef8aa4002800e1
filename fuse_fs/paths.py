"""An image by path instead of inode number, for libfuse, which asks so."""

from __future__ import annotations

from collections.abc import Iterator

from fuse_fs.errors import NoSuchAttribute
from fuse_fs.tree import ImageTree, Space
from rafs.bootstrap import Inode, Nid
from rafs.directory import name_text

# Paths whose inode number is remembered, twice (see `_remember`). A path and its number take about 0.2 KB,
# and an image has seldom more directories than this.
REMEMBERED_PATHS = 8192


class TreeByPath:
    """Methods of `ImageTree` with paths, which are absolute and name no symbolic link on the way; they raise
    what those do, and NoSuchEntry and NotADirectory for the path.

    Thread-safe: the only state is a cache of dicts whose single operations are atomic.
    """

    def __init__(self, tree: ImageTree) -> None:
        self._tree = tree
        self._known: dict[bytes, Nid] = {}
        self._known_before: dict[bytes, Nid] = {}

    def inode(self, path: bytes) -> Inode:
        """The inode at *path*."""
        return self._tree.inode(self._find(path))

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Nid, int]]:
        """Yield (name, inode number, file type bits as in st_mode) of a directory."""
        for name, nid, bits, _ in self._tree.entries(self.inode(path)):
            yield name, nid, bits

    def symlink_target(self, path: bytes) -> bytes:
        """Where the symbolic link points."""
        return self._tree.symlink_target(self.inode(path))

    def xattr_names(self, path: bytes) -> list[bytes]:
        """Full names of the extended attributes."""
        return list(self._tree.xattrs(self.inode(path)))

    def xattr(self, path: bytes, name: bytes) -> bytes:
        """The value of the extended attribute with the full name *name*.

        Raises:
            NoSuchAttribute.
        """
        value = self._tree.xattrs(self.inode(path)).get(name)
        if value is None:
            raise NoSuchAttribute(f"{name_text(path)} has no attribute {name_text(name)}")
        return value

    def space(self) -> Space:
        """The size of the whole image."""
        return self._tree.space()

    def read(self, path: bytes, offset: int, size: int, until: float | None = None) -> bytes:
        """*size* bytes of a file from byte *offset*; fewer only where the file ends."""
        return self._tree.read(self.inode(path), offset, size, until)

    def is_local(self, path: bytes, offset: int, size: int) -> bool:
        """Whether `read` of these bytes would not have to wait."""
        return self._tree.is_local(self.inode(path), offset, size)

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
            nid = self._tree.root
        while unknown:
            path = unknown.pop()
            nid = self._tree.lookup(self._tree.inode(nid), path.rpartition(b"/")[2])
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
