"""A blob of its own for what a start needs first: copies of its chunks, in the order of need.

A start then fetches one run of bytes instead of units all over the image, most of whose content it does not
need. Copies, because a layer's blob must not depend on what is prefetched: equal layers stay equal blobs, and
the next version of the image finds them. Here is decided what lies in it, not who wants what (`hot_list`,
`prefetch_list`).
"""

from __future__ import annotations

import enum
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import pairwise

from builder.layer_record import packed_refs
from rafs.tree import Node, walk


class HotBlob(enum.Enum):
    """When there is one; it has all files to prefetch then, those that a user named first."""

    NONE = "none"
    NAMED = "named"  # if a user named some
    ALL = "all"  # also if all were found by themselves


def hot_chunks(nodes: Iterable[Node]) -> list[int]:
    """References to the chunks of *nodes*, once each, in order; those of all files below a directory."""
    found: dict[int, None] = {}
    for node in nodes:
        files = (one for _, one in walk(node)) if node.is_directory else (node,)
        for file in files:
            if stat.S_ISREG(file.mode):
                found.update(dict.fromkeys(file.chunks))
    return list(found)


def continued(root: Node, refs: Container[int]) -> Iterator[tuple[int, int]]:
    """Which of *refs* goes on with which in some file below *root*."""
    for _, node in walk(root):
        for pair in pairwise(node.chunks):
            if pair[0] in refs and pair[1] in refs:
                yield pair


def refer(root: Node, moved: Mapping[int, int]) -> None:
    """Let all files below *root* refer to the chunks' new places."""
    for _, node in walk(root):
        if not moved.keys().isdisjoint(node.chunks):
            node.chunks = packed_refs([moved.get(ref, ref) for ref in node.chunks])
