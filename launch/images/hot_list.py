"""What an image says is needed first, as ranges of its blobs: the bootstrap's prefetch table, translated.

Bounded, because the table comes with the image: a list that names everything is no list.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from rafs.bootstrap import Bootstrap, Inode

FILES_LIMIT = 4096
RANGES_LIMIT = 16_384


def hot_ranges(bootstrap: Bootstrap) -> list[tuple[int, int, int]]:
    """(blob index, offset, size) of the files the prefetch table names, in its order, neighbours joined.

    The root alone means the whole image, which the background fetches anyway: nothing then.

    Raises:
        rafs.FormatInvalid: the table or a file of it is broken.
    """
    nids = bootstrap.prefetch_nids()
    if nids == (bootstrap.root_nid,):
        return []
    ranges: list[tuple[int, int, int]] = []
    seen: set[int] = set()
    for nid in nids[:FILES_LIMIT]:
        for inode in _files(bootstrap, bootstrap.inode(nid), seen):
            for extent in bootstrap.extents(inode):
                if ranges:
                    blob, offset, size = ranges[-1]
                    if blob == extent.blob_index and offset + size == extent.blob_offset:
                        ranges[-1] = (blob, offset, size + extent.size)
                        continue
                if len(ranges) == RANGES_LIMIT:
                    return ranges
                ranges.append((extent.blob_index, extent.blob_offset, extent.size))
    return ranges


def _files(bootstrap: Bootstrap, top: Inode, seen: set[int]) -> Iterator[Inode]:
    """Regular files at and below *top*, each once, FILES_LIMIT inodes in all."""
    pending = [top]
    while pending and len(seen) < FILES_LIMIT:
        inode = pending.pop()
        if inode.nid in seen:
            continue
        seen.add(inode.nid)
        if stat.S_ISREG(inode.mode):
            yield inode
        elif stat.S_ISDIR(inode.mode):
            children = [nid for name, nid, _ in bootstrap.entries(inode) if name not in (b".", b"..")]
            pending.extend(bootstrap.inode(nid) for nid in reversed(children))
