"""Layers merged into one tree, lowest first, as `umoci unpack` merges them.

A layer's whiteouts are applied first and only to what lies below it (`whiteouts`); then its entries are
placed in their order, later ones winning. Parents are found through symlinks of the layers below (`lib/x`
over `lib -> usr/lib` is `usr/lib/x`), and a directory that a layer only implies keeps the attributes it has.
A hard link shares the inode of its target, whose attributes stay; one to itself is nothing.

Not here: bytes of files. The tree of all layers is in memory, about 0.5 KB per name.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from builder.errors import LayerInvalid, LayerUnsupported
from builder.layers.tar_index import TarEntry
from builder.layers.tree_paths import Unresolvable, directory_at, implied_directory, name_at
from builder.layers.whiteouts import Hiding, hides, is_whiteout
from builder.layers.xattr_rules import kept_xattrs
from rafs.tree import Node, take_attributes

_TYPE_MASK: Final = 0o170000  # as stat.S_IFMT takes it, without a call per entry


def empty_tree() -> Node:
    """The root to merge the lowest layer into."""
    return implied_directory()


def merge_layer(
    root: Node, entries: Sequence[TarEntry], *, layer: str, dropped: Counter[str]
) -> list[TarEntry]:
    """Apply the *entries* of one layer to the tree below *root*, and return its regular files.

    The files are those the layer stores, whatever later layers do to them, in the order in which a blob
    keeps them (a directory's files together, directories and names sorted): one per path, and those whose
    path a later entry took but which have another name by a hard link. *layer* names it
    in errors; *dropped* counts xattrs that cannot be kept, by name.

    Raises:
        LayerInvalid: a hard link to nothing or to a directory, symlinks in a circle.
        LayerUnsupported: an overlayfs feature that would need the lower layer's file system.
    """
    current = b""
    try:
        targets = _lower_targets(root, entries)
        marks = {id(entry) for entry in entries if hides(entry)}
        hiding = Hiding(root)
        for entry in entries if marks else ():
            current = entry.path
            if id(entry) in marks:
                hiding.apply(entry)
                if is_whiteout(entry):
                    continue
            hiding.replace(entry)
        files: dict[bytes, TarEntry] = {}
        linked: set[Node] = set()
        renamed: list[TarEntry] = []
        placing = _Placing(root)
        for entry in entries:
            current = entry.path
            if id(entry) in marks and is_whiteout(entry):
                continue
            node = entry.node
            if node is None:
                target = _link_target(root, entry, targets)
                if name_at(root, current) is target:
                    continue  # `tar cf x a a` writes this; GNU tar, which finds the link there, passes it by
                linked.add(target)
            if (replaced := files.pop(current, None)) is not None and replaced.node in linked:
                renamed.append(replaced)
            if node is None:
                placing.place(current, target)
                continue
            if node.xattrs is not None:
                node.xattrs = kept_xattrs(node.xattrs, dropped)
            placing.place(current, node)
            if node.mode & _TYPE_MASK == stat.S_IFREG:
                files[current] = entry
    except Unresolvable as error:
        raise LayerInvalid(_at(layer, current, error)) from error
    except (LayerInvalid, LayerUnsupported) as error:
        raise type(error)(_at(layer, current, error)) from error
    return sorted([*files.values(), *renamed], key=_blob_order)


def _at(layer: str, path: bytes, error: Exception) -> str:
    return f"layer {layer}: entry {repr(path[:200])[1:]}: {error}"


def _blob_order(entry: TarEntry) -> tuple[bytes, bytes]:
    folder, _, name = entry.path.rpartition(b"/")
    # NUL, which no name has, sorts a folder's subfolders right behind it.
    return folder.replace(b"/", b"\0"), name


def _lower_targets(root: Node, entries: Iterable[TarEntry]) -> dict[bytes, Node]:
    """What hard links name in the layers below, found before whiteouts take it away."""
    found = {}
    for entry in entries:
        if entry.node is None:
            with suppress(Unresolvable):  # the layer may replace the symlinks that lead nowhere
                if (target := name_at(root, entry.link)) is not None:
                    found[entry.link] = target
    return found


def _link_target(root: Node, entry: TarEntry, lower: dict[bytes, Node]) -> Node:
    target = name_at(root, entry.link) or lower.get(entry.link)
    if target is None:
        raise LayerInvalid(f"a hard link to {repr(entry.link[:200])[1:]}, which is in no layer up to here")
    if target.is_directory:
        raise LayerInvalid(f"a hard link to the directory {repr(entry.link[:200])[1:]}")
    return target


class _Placing:
    """Puts nodes into the tree, and remembers the last folder: the entries of one mostly come together."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._folder: bytes | None = None
        self._parent = root

    def place(self, path: bytes, node: Node) -> None:
        folder, _, name = path.rpartition(b"/")
        if not name:
            if not node.is_directory:
                raise LayerInvalid("the root is not a directory")
            take_attributes(self._root, node)
            return
        if folder != self._folder:
            parent = directory_at(self._root, folder, create=True)
            assert parent is not None
            self._folder, self._parent = folder, parent
        children = self._parent.children
        there = children.get(name)
        if there is None:
            children[name] = node
        elif there.is_directory and node.is_directory:
            take_attributes(there, node)
        else:
            children[name] = node
            self._folder = None  # what was replaced may have been on the way to it
