"""Finding names in the merged tree as a program inside the image would: symlinks followed, `..` kept inside.

Not here: what layers do to the tree (`overlay`).
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from rafs.codes import MAX_NAME
from rafs.tree import Node

_LINKS_LIMIT: Final = 40  # Linux follows as many, then says ELOOP
DEPTH_LIMIT: Final = 2048  # PATH_MAX / 2: no deeper directory has a path that can be opened


class Unresolvable(Exception):
    """A path cannot be followed: symlinks in a circle, or too deep. Callers add what they know."""


def directory_at(
    root: Node,
    path: bytes,
    *,
    create: bool,
    instead: Mapping[tuple[Node, bytes], Node] = MappingProxyType({}),
) -> Node | None:
    """The directory *path* leads to from *root*, None if there is none.

    With *create* what is missing is made, with the attributes layers imply, and what is in the way is
    replaced. *instead* has what is taken for a symlink, by the directory it lies in and its name.

    Raises:
        Unresolvable: more than 40 symlinks or 2048 directories on the way, or too long a name to make one.
    """
    stack = [root]
    pending = path.split(b"/")[::-1]
    links = 0
    while pending:
        part = pending.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            if len(stack) > 1:
                stack.pop()
            continue
        child = stack[-1].children.get(part)
        if child is not None and instead and stat.S_ISLNK(child.mode):
            child = instead.get((stack[-1], part), child)
        if child is not None and stat.S_ISLNK(child.mode):
            links += 1
            if links > _LINKS_LIMIT:
                raise Unresolvable(f"more than {_LINKS_LIMIT} symbolic links on the way")
            if child.target.startswith(b"/"):
                del stack[1:]
            pending.extend(child.target.split(b"/")[::-1])
            continue
        if child is None or not child.is_directory:
            if not create:
                return None
            if len(part) > MAX_NAME:  # of a symlink's target; the names of entries were looked at
                raise Unresolvable(f"a directory whose name has {len(part)} bytes, the limit is {MAX_NAME}")
            child = stack[-1].children[part] = implied_directory(stack[-1])
        stack.append(child)
        if len(stack) > DEPTH_LIMIT:
            raise Unresolvable(f"more than {DEPTH_LIMIT} directories deep")
    return stack[-1]


def folder_at(root: Node, path: bytes) -> Node | None:
    """The directory *path* leads to; None if there is none, or no way to it."""
    try:
        return directory_at(root, path, create=False)
    except Unresolvable:
        return None


def implied_directory(parent: Node | None = None) -> Node:
    """A directory that a layer needs but does not describe, as who unpacks it makes one in *parent*."""
    made = Node(stat.S_IFDIR | 0o755)
    if parent is not None and parent.mode & stat.S_ISGID:
        made.mode |= stat.S_ISGID
        made.gid = parent.gid
    return made


def name_at(root: Node, path: bytes) -> Node | None:
    """What *path* names, a symlink itself if it names one; None if nothing.

    Raises:
        Unresolvable: as `directory_at`.
    """
    folder, _, name = path.rstrip(b"/").rpartition(b"/")
    parent = directory_at(root, folder, create=False)
    return parent.children.get(name) if parent is not None else None


def file_at(root: Node, path: bytes) -> tuple[bytes, Node] | None:
    """The regular file an absolute *path* leads to, with the path of its last name; None if there is none."""
    for _ in range(_LINKS_LIMIT):
        try:
            node = name_at(root, path)
        except Unresolvable:
            return None
        if node is None:
            return None
        if not stat.S_ISLNK(node.mode):
            return (path, node) if stat.S_ISREG(node.mode) else None
        folder = path.rpartition(b"/")[0]
        path = node.target if node.target.startswith(b"/") else folder + b"/" + node.target
    return None
