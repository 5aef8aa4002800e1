"""How the tree was before a layer was merged into it, written as what has to be undone.

A converted image shows the tree after its last layer only. With one `Undo` per layer above the lowest, the
tree after any of its layers can be had back, and the layers up to there need not be read again. Additions
are cheap to undo (a bit per name), replaced and removed files are written out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rafs.tree import Node, take_attributes

Attributes = tuple[int, int, int, int, int, "dict[bytes, bytes] | None"]


@dataclass(frozen=True, slots=True)
class Undo:
    """`runs`: names of the later tree, in its order, alternately kept and taken away, kept ones first; what
    lies below a directory that is taken away is not counted. `entries`: (path, node or path of another name
    of the same file) to put there afterwards; a directory that is there takes its attributes.
    """

    runs: tuple[int, ...]
    entries: tuple[tuple[bytes, Node | bytes], ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One directory as it was; files are the nodes themselves, since merging never changes those."""

    attributes: Attributes
    children: dict[bytes, Node | Snapshot]


def snapshot(directory: Node) -> Snapshot:
    """*directory* and all below it, as they are now."""
    whole = Snapshot(_attributes(directory), {})
    pending = [(whole, directory)]
    while pending:
        taken, node = pending.pop()
        for name, child in node.children.items():
            if child.is_directory:
                inner = taken.children[name] = Snapshot(_attributes(child), {})
                pending.append((inner, child))
            else:
                taken.children[name] = child
    return whole


def undo_to(before: Snapshot, after: Node) -> Undo:
    """What leads from the tree at *after* back to *before*, from which a layer made it."""
    finder = _Finder()
    finder.compare(b"", before, after)
    return Undo(tuple(finder.runs), tuple(finder.entries()))


def apply_undo(root: Node, undo: Undo) -> None:
    """Turn the tree at *root* into the one before. No directory gets a second name, whatever *undo* says.

    Raises:
        KeyError, ValueError: *undo* was not made for this tree.
    """
    runs = list(undo.runs[::-1])
    kept, left = True, runs.pop() if runs else 0
    pending = [root]
    while pending:
        directory = pending.pop()
        below = []
        for name in sorted(directory.children):
            while not left:
                if not runs:
                    raise ValueError("more names than the record of the layers counts")
                kept, left = not kept, runs.pop()
            left -= 1
            if not kept:
                del directory.children[name]
            elif (child := directory.children[name]).is_directory:
                below.append(child)
        pending.extend(reversed(below))
    if left or any(runs):
        raise ValueError("fewer names than the record of the layers counts")
    for path, node in undo.entries:
        _put(root, path, node)


def _put(root: Node, path: bytes, node: Node | bytes) -> None:
    folder, _, name = path.rpartition(b"/")
    parent = _at(root, folder)
    there = parent.children.get(name) if path else root
    if isinstance(node, bytes):
        node = _at(root, node)
        if node.is_directory:
            raise ValueError(f"{path!r} is a hard link to a directory")
    if there is None:
        if not parent.is_directory:
            raise ValueError(f"{path!r} is in what is no directory")
        parent.children[name] = node
    elif there.is_directory and node.is_directory:
        take_attributes(there, node)
    else:
        raise ValueError(f"{path!r} is there already")


def _at(root: Node, path: bytes) -> Node:
    for name in path.split(b"/") if path else ():
        root = root.children[name]
    return root


def _attributes(node: Node) -> Attributes:
    return node.mode, node.uid, node.gid, node.mtime, node.mtime_ns, node.xattrs


class _Finder:
    """Collects runs and entries; directories are visited in the order in which `apply_undo` visits them."""

    def __init__(self) -> None:
        self.runs = [0]
        self._kept = True
        self._kept_paths: dict[Node, bytes] = {}
        self._gone: list[tuple[bytes, Node | Snapshot]] = []

    def compare(self, path: bytes, before: Snapshot, after: Node) -> None:
        pending = [(path, before, after)]
        while pending:
            path, before, after = pending.pop()
            if before.attributes != _attributes(after):
                self._gone.append((path, Snapshot(before.attributes, {})))
            prefix = path + b"/" if path else b""
            below = []
            for name in sorted(after.children):
                child, was = after.children[name], before.children.get(name)
                kept = isinstance(was, Snapshot) if child.is_directory else was is child
                self._count(kept)
                if not kept:
                    continue
                if isinstance(was, Snapshot):
                    below.append((prefix + name, was, child))
                else:
                    self._kept_paths.setdefault(child, prefix + name)
            for name in sorted(before.children):
                was, now = before.children[name], after.children.get(name)
                if now is not None and (was is now or (isinstance(was, Snapshot) and now.is_directory)):
                    continue
                self._gone.append((prefix + name, was))
            pending.extend(reversed(below))

    def entries(self) -> Iterator[tuple[bytes, Node | bytes]]:
        """What is to be put back; parents come before what is in them."""
        named = self._kept_paths
        pending = self._gone[::-1]
        while pending:
            path, was = pending.pop()
            if isinstance(was, Snapshot):
                mode, uid, gid, mtime, mtime_ns, xattrs = was.attributes
                yield path, Node(mode, uid, gid, mtime, mtime_ns, xattrs=xattrs)
                below: Sequence[bytes] = sorted(was.children, reverse=True)
                pending.extend((path + b"/" + name, was.children[name]) for name in below)
            elif (first := named.get(was)) is not None:
                yield path, first
            else:
                named[was] = path
                yield path, was

    def _count(self, kept: bool) -> None:
        if kept != self._kept:
            self._kept = kept
            self.runs.append(0)
        self.runs[-1] += 1
