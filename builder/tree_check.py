"""Whether a tree that others described is one: what a record says of files (`layer_record`) is not believed.

Merging layers makes sound trees, and whoever writes them relies on that. Not here: whether the tree is the
right one, which nobody can tell without the layers.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from builder.errors import LayerUnsupported
from builder.layers.tree_paths import DEPTH_LIMIT
from builder.layers.xattr_rules import kept_xattrs
from rafs.codes import MAX_NAME, MAX_SYMLINK, TYPE_OF_MODE
from rafs.counted import counted
from rafs.tree import Node, PlanInvalid, split_ref
from rafs.xattr_area import pack_xattrs

_IDS: Final = range(1 << 32)
_SECONDS: Final = range(-(1 << 63), 1 << 63)
_NANOSECONDS: Final = range(10**9)
_MODES: Final = range(1 << 16)
_DOTS: Final = frozenset({b"", b".", b".."})


def check_tree(root: Node, chunk_size: int, sizes: Mapping[int, Sequence[int]]) -> None:
    """Return if the tree below *root* could have been made from layers.

    *sizes* are the bytes of the chunks of each blob that files may refer to, by its key. Time and memory are
    linear in the names and chunks, whatever the nodes are linked to.

    Raises:
        ValueError: it could not.
    """
    if not root.is_directory:
        raise ValueError("the root is not a directory")
    seen: set[Node] = {root}
    pending = [(root, 1)]
    _check_fields(root)
    while pending:
        directory, depth = pending.pop()
        if depth > DEPTH_LIMIT:
            raise ValueError(f"more than {DEPTH_LIMIT} directories deep")
        for name, node in directory.children.items():
            if name in _DOTS or len(name) > MAX_NAME or b"/" in name or b"\0" in name:
                raise ValueError(f"a name {name[:MAX_NAME]!r}")
            if node in seen:
                if node.is_directory:
                    raise ValueError(f"directory {name!r} is in the tree twice")
                continue
            seen.add(node)
            _check_fields(node)
            if node.is_directory:
                pending.append((node, depth + 1))
            elif node.children:
                raise ValueError(f"{name!r} has names below it and is no directory")
            elif stat.S_ISREG(node.mode):
                _check_chunks(node, chunk_size, sizes)


def _check_fields(node: Node) -> None:
    if node.mode not in _MODES or not TYPE_OF_MODE[node.mode >> 12]:
        raise ValueError(f"mode {node.mode:o}")
    if node.uid not in _IDS or node.gid not in _IDS or node.rdev not in _IDS:
        raise ValueError(f"owner {node.uid}:{node.gid}, device {node.rdev}")
    if node.mtime not in _SECONDS or node.mtime_ns not in _NANOSECONDS:
        raise ValueError(f"time {node.mtime}.{node.mtime_ns}")
    if not stat.S_ISREG(node.mode) and (node.size or node.chunks):
        raise ValueError("bytes in what is no file")
    if stat.S_ISLNK(node.mode) and not (0 < len(node.target) < MAX_SYMLINK and b"\0" not in node.target):
        raise ValueError(f"a symbolic link of {counted(len(node.target), 'byte')}")
    if node.xattrs is not None:
        try:
            kept = kept_xattrs(node.xattrs, Counter())
            pack_xattrs(kept)
        except (LayerUnsupported, PlanInvalid) as error:
            raise ValueError(str(error)) from error
        if kept != node.xattrs:
            raise ValueError("xattrs that no image has")


def _check_chunks(node: Node, chunk_size: int, sizes: Mapping[int, Sequence[int]]) -> None:
    if node.size < 0 or len(node.chunks) != -(-node.size // chunk_size):
        raise ValueError(f"{len(node.chunks)} chunks for {counted(node.size, 'byte')}")
    left = node.size
    for ref in node.chunks:
        key, index = split_ref(ref)
        there = sizes.get(key)
        if there is None or index >= len(there) or there[index] != min(left, chunk_size):
            raise ValueError(f"a file of {counted(node.size, 'byte')} refers to chunk {index} of blob {key}")
        left -= chunk_size
