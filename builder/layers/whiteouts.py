"""What a layer takes away from those below it.

Both spellings are known: AUFS (`.wh.NAME`, `.wh..wh..opq`) and overlayfs (character device 0:0,
`trusted.overlay.opaque`). Only the layers below are touched, so a layer's whiteouts are applied before its
entries are placed (`overlay`). The order inside its tar counts in one case, as it does for `umoci unpack`:
behind an entry that takes the place of a symlink, nobody follows that link any more.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from typing import Final

from builder.errors import LayerInvalid
from builder.layers.tar_index import WHITEOUT, TarEntry
from builder.layers.tree_paths import Unresolvable, directory_at
from builder.layers.xattr_rules import is_opaque
from rafs.tree import Node

_METADATA: Final = b".wh..wh."  # AUFS' own bookkeeping, which docker skips, too
_OPAQUE: Final = b".wh..wh..opq"
_TYPE_MASK: Final = 0o170000  # as stat.S_IFMT takes it, without a call per entry


def hides(entry: TarEntry) -> bool:
    """Whether *entry* takes away anything; cheap for nearly all that do not, since every entry is asked."""
    node = entry.node
    may = WHITEOUT in entry.path or (
        node is not None and (node.xattrs is not None or node.mode & _TYPE_MASK == stat.S_IFCHR)
    )
    return may and (is_whiteout(entry) or _is_opaque(node))


def is_whiteout(entry: TarEntry) -> bool:
    """Whether *entry* is nothing but a mark, and not shown itself."""
    if entry.path.startswith(_METADATA) or b"/" + _METADATA in entry.path:
        return True
    if entry.path.rpartition(b"/")[2].startswith(WHITEOUT):
        return True
    return entry.node is not None and stat.S_ISCHR(entry.node.mode) and entry.node.rdev == 0


def _is_opaque(node: Node | None) -> bool:
    return node is not None and node.is_directory and is_opaque(node.xattrs)


class Hiding:
    """Hides names of the tree below, which must not have been changed by the layer otherwise."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._instead: dict[tuple[Node, bytes], Node] = {}  # what the layer has where a symlink is below
        self._folder: bytes | None = None
        self._parent: Node | None = None

    def apply(self, entry: TarEntry) -> None:
        """Take away what *entry* hides.

        Raises:
            LayerInvalid: a whiteout without a name.
            Unresolvable: symlinks in a circle on the way.
        """
        folder, _, name = entry.path.rpartition(b"/")
        if name == _OPAQUE:
            self._empty(self._directory(folder))
        elif name.startswith(_METADATA):
            return
        elif name.startswith(WHITEOUT):
            hidden = name[len(WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise LayerInvalid("a whiteout that names nothing")
            self._remove(folder, hidden)
        elif is_whiteout(entry):
            self._remove(folder, name)
        elif _is_opaque(entry.node):
            # A symlink of this very name is replaced by the entry, not followed.
            parent = self._directory(folder)
            self._empty(parent.children.get(name) if name and parent is not None else parent)

    def replace(self, entry: TarEntry) -> None:
        """*entry* is shown; whiteouts behind it follow no symlink in its place."""
        folder, _, name = entry.path.rpartition(b"/")
        if folder != self._folder:
            self._folder, self._parent = folder, None
            with suppress(Unresolvable):  # placing it will tell, if nothing of the layer is in the way
                self._parent = self._directory(folder)
        if self._parent is None or entry.node is None:
            return
        below = self._parent.children.get(name)
        if below is not None and stat.S_ISLNK(below.mode):
            self._instead[self._parent, name] = entry.node
            self._folder = None

    def _directory(self, path: bytes) -> Node | None:
        return directory_at(self._root, path, create=False, instead=self._instead)

    def _empty(self, folder: Node | None) -> None:
        if folder is not None:
            folder.children.clear()
            self._folder = None

    def _remove(self, folder: bytes, name: bytes) -> None:
        parent = self._directory(folder)
        if parent is not None:
            parent.children.pop(name, None)
            self._folder = None
