"""A bootstrap rewritten from blobs to windows: a plain EROFS image that the kernel mounts over window files.

Each window is one device. Inodes keep their numbers; only block addresses move, all by the same number of
blocks, because the device table is put in front of what the tree needs and the tables of RAFS are dropped:

    superblock, one device slot per window
    inodes, directories and symlinks, as they were, with new chunk entries

The slots carry the windows' ids and lengths, so the image says by itself what it is to be mounted over
(`localised`). Pure: no file is read or written. A container's start may wait for this, hence plain integers
and one dictionary look-up per chunk (`tree_rewriting`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, compress

from .blob_meta import BlobMeta
from .bootstrap import Bootstrap
from .entry_words import BLOCK_SHIFT, DEVICE_SHIFT, chunk_blocks, entry_words
from .errors import FormatInvalid
from .tree_rewriting import TreeRewriting
from .window_slots import WindowDevice
from .windows import Window


def localise(bootstrap: Bootstrap, blobs: Sequence[BlobMeta], windows: Sequence[Sequence[Window]]) -> bytes:
    """The EROFS image of *bootstrap* over the windows of its blobs.

    *blobs* and *windows* are in the order of the blob table. Device k + 1 is the k-th distinct window in that
    order. Files whose chunks follow each other in one window become one extent. The same input gives the same
    bytes. *bootstrap* must be free of findings of `check.check_bootstrap`: what overlaps would be rewritten
    under another's feet.

    Raises:
        FormatInvalid: a chunk entry names a chunk that is not in the chunk info at that index and block, or
        what it lies in is out of bounds.
        ImageTooLarge: more windows than an image can have devices.
    """
    if not len(bootstrap.blobs) == len(blobs) == len(windows):
        raise FormatInvalid(
            f"the bootstrap has {len(bootstrap.blobs)} blobs, chunk info is given for {len(blobs)}"
        )
    numbers: dict[str, int] = {}
    devices: list[WindowDevice] = []
    entries: dict[int, int] = {}
    for index, (meta, cut) in enumerate(zip(blobs, windows, strict=True)):
        for window in cut:
            if window.id not in numbers:
                devices.append(WindowDevice(window.id, window.length))
                numbers[window.id] = len(devices)
        entries.update(_entries(index, meta, cut, numbers, bootstrap.block_size))
    rewriting = TreeRewriting(bootstrap, entries)
    rewriting.run()
    return rewriting.finish(devices)


def _entries(
    index: int, meta: BlobMeta, cut: Sequence[Window], numbers: Mapping[str, int], block_size: int
) -> Iterator[tuple[int, int]]:
    """What becomes of every chunk entry of blob *index*: (blob, chunk index, block), (window, block in it).

    What an inode says and is not among them contradicts the chunk info.
    """
    blocks = chunk_blocks(meta, block_size)
    new = chain.from_iterable(
        map(
            ((numbers[window.id] << DEVICE_SHIFT) - (window.start // block_size << BLOCK_SHIFT)).__add__,
            blocks[window.first_chunk : window.first_chunk + window.chunk_count],
        )
        for window in cut
    )
    found = zip(entry_words(index, blocks), new, strict=True)
    # Nobody can verify what is in a hole, so no file may lead there.
    return compress(found, [not hole for hole in meta.holes]) if meta.holes else found
