"""Whether the chunk entries of all files name chunks that are there, and agree in both of their halves.

An entry holds a chunk's index and its block address; one reader goes by the first, another by the second, and
where they disagree they show different data. So no image is mounted before this was looked at, which is why
it is quick: one dictionary look-up per entry. Everything else that may be wrong is for `check`.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from itertools import compress

from rafs.counted import counted

from .blob_meta import BlobMeta
from .bootstrap import Bootstrap
from .codes import (
    CHUNK_FORMAT_BITS,
    CHUNK_FORMAT_INDEXES,
    FORMAT_EXTENDED,
    LAYOUT_CHUNKS,
    NID_UNIT,
)
from .entry_words import ENTRY_WORD, chunk_blocks, entry_words, split_entry
from .errors import FormatInvalid
from .inode import xattr_bytes
from .records import CHUNK_ENTRY, INODE_EXTENDED

_EXTENDED_CHUNKS = (LAYOUT_CHUNKS << 1 | FORMAT_EXTENDED).to_bytes(2, "little")


def check_entries(bootstrap: Bootstrap, metas: Sequence[BlobMeta]) -> None:
    """Return if each file's chunks are in the chunk info *metas* (in blob table order) as its entries say.

    Raises:
        FormatInvalid: an entry names no chunk, or one of another place or size, or one without a digest; or
            an inode or directory is broken. Names are not looked at.
    """
    if len(metas) != len(bootstrap.blobs):
        raise FormatInvalid(f"chunk info of {len(metas)} blobs for a table of {len(bootstrap.blobs)}")
    sizes: dict[int, int] = {}
    for index, meta in enumerate(metas):
        words = entry_words(index, chunk_blocks(meta, bootstrap.block_size))
        found = zip(words, meta.sizes, strict=True)
        sizes.update(compress(found, [not hole for hole in meta.holes]) if meta.holes else found)
    if not _all_agree(bootstrap, sizes):
        _walk(bootstrap, metas, sizes)


def _walk(bootstrap: Bootstrap, metas: Sequence[BlobMeta], sizes: dict[int, int]) -> None:
    """Judge file by file, and raise at the first that does not agree."""
    chunk_size = bootstrap.chunk_size
    find, unpack = sizes.get, ENTRY_WORD.iter_unpack
    seen: set[int] = set()
    for path, inode in bootstrap.walk():
        if not inode.size or not stat.S_ISREG(inode.mode) or inode.nid in seen:
            continue
        if inode.nlink > 1:
            seen.add(inode.nid)
        left = inode.size
        for (entry,) in unpack(bootstrap.chunk_entries(inode)):
            if find(entry) != (left if left < chunk_size else chunk_size):
                where = f"{path[-200:]!r}: {counted(min(left, chunk_size), 'byte')} at {inode.size - left}"
                raise FormatInvalid(f"{where}: {_contradiction(entry, metas, bootstrap.block_size)}")
            left -= chunk_size


def _all_agree(bootstrap: Bootstrap, sizes: dict[int, int]) -> bool:
    """Whether all entries agree, found without names and values for each inode. False is no verdict.

    A container's first start waits for this: 1 µs per file, where the walk takes 3.
    """
    raw, meta, chunk_size = bootstrap.raw, bootstrap.header.meta_offset, bootstrap.chunk_size
    unpack, find, number = INODE_EXTENDED.struct.unpack_from, sizes.get, int.from_bytes
    end, budget = len(raw), len(raw)
    root = int(bootstrap.root_nid)
    seen, folders, stack = {root}, {root}, [(root, root)]
    while stack:
        nid, parent = stack.pop()
        directory = bootstrap.inode(nid)
        budget -= directory.size
        dots = 0
        for child in bootstrap.children(directory) if budget >= 0 else ():
            if child in seen:
                if child in folders:
                    if child not in (nid, parent):
                        return False
                    dots += 1
                continue
            seen.add(child)
            at = meta + child * NID_UNIT
            if raw[at : at + 2] != _EXTENDED_CHUNKS or at + INODE_EXTENDED.size > end:
                inode = bootstrap.inode(child)
                if stat.S_ISDIR(inode.mode):
                    folders.add(child)
                    stack.append((child, nid))
                elif inode.size and stat.S_ISREG(inode.mode):
                    return False
                continue
            _, icount, mode, _, left, chunk_format, *_ = unpack(raw, at)
            if not stat.S_ISREG(mode) or chunk_format & ~CHUNK_FORMAT_BITS != CHUNK_FORMAT_INDEXES:
                return False
            at += INODE_EXTENDED.size + (xattr_bytes(icount) if icount else 0)
            at += -at % CHUNK_ENTRY.size
            if at + -(-left // chunk_size) * CHUNK_ENTRY.size > end:
                return False
            while left > 0:
                entry = number(raw[at : at + CHUNK_ENTRY.size], "little")
                if find(entry) != (left if left < chunk_size else chunk_size):
                    return False
                at, left = at + CHUNK_ENTRY.size, left - chunk_size
        if dots != 2:
            return False
    return True


def _contradiction(entry: int, metas: Sequence[BlobMeta], block_size: int) -> str:
    blob, index, block = split_entry(entry)
    said = f"chunk {index} of blob {blob}, at block {block}"
    if not 0 <= blob < len(metas) or index >= metas[blob].chunk_count:
        return f"{said}, do not exist"
    meta = metas[blob]
    chunk = meta.chunk(index)
    if meta.holes and meta.holes[index]:
        return f"{said}, have no digest: they cannot be verified"
    return f"{said}; that chunk has {counted(chunk.size, 'byte')} at block {chunk.offset // block_size}"
