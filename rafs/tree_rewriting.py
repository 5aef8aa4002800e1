"""One pass over the tree of a bootstrap that gives every chunk entry and block address its new place.

Serves `localise` alone, which says what a chunk entry becomes. Works on the bootstrap as an array of 64-bit
words and makes no object per inode: tens of thousands of them are rewritten while a container's start waits.
Positions are in words unless their comment says bytes.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from rafs.counted import counted

from .bootstrap import Bootstrap
from .codes import (
    CHUNK_FORMAT_BITS,
    CHUNK_FORMAT_INDEXES,
    LAYOUT_CHUNKS,
    LAYOUT_INLINE,
    LAYOUT_PLAIN,
    NID_UNIT,
)
from .directory import entry_count
from .entry_words import BLOCK_SHIFT, split_entry
from .errors import FormatInvalid
from .inode import xattr_bytes
from .localised import pack_front
from .records import DIRENT, INODE_COMPACT, INODE_EXTENDED
from .window_slots import WindowDevice

_WORD = 8
_NID_WORDS = NID_UNIT // _WORD
_LOW16, _LOW32 = 0xFFFF, 0xFFFF_FFFF

# The first word of an inode: format, xattr_icount, mode (16 bits each). This is an extended regular file in
# chunks without xattrs, whatever its permissions: nearly every inode of an image.
_USUAL_MASK = 0xF000_FFFF_FFFF
_USUAL = 0x8000 << 32 | LAYOUT_CHUNKS << 1 | 1
_USUAL_ENTRY = INODE_EXTENDED.size // _WORD

_REGULAR, _DIRECTORY, _SYMLINK = 0x8, 0x4, 0xA  # mode >> 12


def _little(kind: str, raw: bytes) -> array[int]:
    """The little-endian integers in *raw*, of 32 ("I") or 64 bits ("Q")."""
    words = array(kind, raw)
    if sys.byteorder == "big":
        words.byteswap()
    return words


@dataclass(slots=True)
class TreeRewriting:
    """The tree of *bootstrap* while its chunk entries are replaced as *entries* says. Used once."""

    bootstrap: Bootstrap
    entries: dict[int, int]
    _raw: bytes = field(init=False)
    _old: array[int] = field(init=False)
    _new: array[int] = field(init=False)
    _moved: list[int] = field(init=False, default_factory=list)  # inodes with blocks: their i_u moves along
    _block: int = field(init=False)  # bytes of a block of the bootstrap
    _first: int = field(init=False)  # bytes of the bootstrap that the tree needs
    _end: int = field(init=False)

    def __post_init__(self) -> None:
        # Read from one, write to the other: two files may share their list of chunks.
        self._raw = self.bootstrap.raw
        self._old = _little("Q", self._raw)
        self._new = self._old[:]
        self._block = self.bootstrap.block_size
        self._first = self.bootstrap.header.meta_offset
        self._end = self._first

    def run(self) -> None:
        """Rewrite every chunk entry and note every block address.

        Raises:
            FormatInvalid: as `localise`.
        """
        old, new, entries = self._old, self._new, self.entries
        chunk_size = self.bootstrap.chunk_size
        chunk_format = self._chunk_format(chunk_size)
        base = self.bootstrap.header.meta_offset // _WORD
        root = self.bootstrap.root_nid
        seen: set[int] = {root}
        pending: list[int] = [root]
        here = base
        try:
            while pending:
                for nid in self._children(pending.pop()):
                    if nid in seen:
                        continue
                    seen.add(nid)
                    here = base + nid * _NID_WORDS
                    head = old[here]
                    if head & _USUAL_MASK == _USUAL and 0 < old[here + 1] <= chunk_size:
                        new[here + _USUAL_ENTRY] = entries[old[here + _USUAL_ENTRY]]
                        if old[here + 2] & _LOW32 != chunk_format:
                            self._put_i_u(here, chunk_format)
                    elif head >> 44 & 0xF == _REGULAR:
                        self._place_file(here)
                    elif head >> 44 & 0xF == _DIRECTORY:
                        pending.append(nid)
                    elif head >> 44 & 0xF == _SYMLINK:
                        self._note_blocks(here, *self._shape(here)[:2])
            self._end = max(self._end, self._end_of(base + max(seen) * _NID_WORDS))
        except KeyError as error:
            raise self._unknown(here, error.args[0]) from None
        except (IndexError, OverflowError):
            where = (here - base) // _NID_WORDS
            raise FormatInvalid(f"inode {where} or its chunk entries lie outside the bootstrap") from None

    def finish(self, devices: Sequence[WindowDevice]) -> bytes:
        """The image: superblock and *devices*, then what the tree needs.

        Raises:
            ImageTooLarge: too many *devices*.
            FormatInvalid: a part that the tree needs lies outside the bootstrap.
        """
        block = self._block
        size = self._end - self._first
        size += -size % block
        if self._first + size > self.bootstrap.size:
            raise FormatInvalid(f"the last inode ends at {self._end:#x}, beyond the bootstrap")
        front, shift = pack_front(self.bootstrap.superblock, self._first // block, size // block, devices)
        for here in self._moved:
            self._put_i_u(here, (self._old[here + 2] & _LOW32) + shift)
        kept = self._new[self._first // _WORD : (self._first + size) // _WORD]
        if sys.byteorder == "big":
            kept.byteswap()
        return front(kept.tobytes())

    def _children(self, nid: int) -> list[int]:
        """The nids in a directory, "." and ".." among them."""
        raw, block = self._raw, self._block
        here = self.bootstrap.header.meta_offset // _WORD + nid * _NID_WORDS
        size, layout, tail_start = self._shape(here)
        if layout == LAYOUT_CHUNKS:
            raise FormatInvalid(f"inode {nid}: a directory in chunks")
        places = []
        if self._note_blocks(here, size, layout):
            start = (self._old[here + 2] & _LOW32) * block
            whole = size - size % block if layout == LAYOUT_INLINE else size
            places = [(start + at, start + min(at + block, whole)) for at in range(0, whole, block)]
        if layout == LAYOUT_INLINE and size % block:
            places.append((tail_start, tail_start + size % block))
        found: list[int] = []
        for start, end in places:
            if end > len(raw):
                raise FormatInvalid(f"inode {nid}: a block ends at {end:#x}, beyond the bootstrap")
            count = entry_count(raw, start, end, nid)
            thirds = _little("I", raw[start : start + count * DIRENT.size])
            if any(thirds[1::3]):
                raise FormatInvalid(f"inode {nid}: names an inode beyond the bootstrap")
            found += thirds[::3]
        return found

    def _shape(self, here: int) -> tuple[int, int, int]:
        """(size, layout, byte offset of what follows inode and xattrs) of the inode at *here*."""
        head, size = self._old[here], self._old[here + 1]
        i_format, icount = head & _LOW16, head >> 16 & _LOW16
        body = INODE_EXTENDED.size if i_format & 1 else INODE_COMPACT.size
        if not i_format & 1:
            size &= _LOW32
        if i_format >> 1 not in (LAYOUT_PLAIN, LAYOUT_INLINE, LAYOUT_CHUNKS) or size >> 63:
            raise FormatInvalid(
                f"the inode at {here * _WORD:#x} has format {i_format:#x} and {counted(size, 'byte')}"
            )
        xattrs = xattr_bytes(icount) if icount else 0
        return size, i_format >> 1, here * _WORD + body + xattrs

    def _note_blocks(self, here: int, size: int, layout: int) -> int:
        """How many whole blocks a directory or symlink has, all in the bootstrap; they move along."""
        blocks = size // self._block if layout == LAYOUT_INLINE else -(-size // self._block)
        if blocks:
            start = (self._old[here + 2] & _LOW32) * self._block
            end = start + blocks * self._block
            if end > self.bootstrap.size:
                raise FormatInvalid(f"the inode at {here * _WORD:#x}: {blocks} blocks end at {end:#x}")
            self._moved.append(here)
            self._first = min(self._first, start)
            self._end = max(self._end, end)
        return blocks

    def _place_file(self, here: int) -> None:
        """Rewrite a regular file of any form."""
        size, layout, behind = self._shape(here)
        if layout != LAYOUT_CHUNKS:
            if size:
                raise FormatInvalid(f"the inode at {here * _WORD:#x}: a regular file of layout {layout}")
            return
        chunk_size = self.bootstrap.chunk_size
        start, count = -(-behind // _WORD), -(-size // chunk_size)
        if start + count > len(self._old):
            raise FormatInvalid(
                f"the inode at {here * _WORD:#x}: {counted(size, 'byte')} need {count} chunk entries"
            )
        placed = [self.entries[entry] for entry in self._old[start : start + count]]
        self._new[start : start + count] = array("Q", placed)
        extent = chunk_size
        step = chunk_size // self._block << BLOCK_SHIFT
        if count > 1 and placed == list(range(placed[0], placed[0] + count * step, step)):
            # One extent: fewer steps for the kernel. Across a border it would run out of the first window.
            extent = max(chunk_size, 1 << (size - 1).bit_length())
        if extent > self._block << CHUNK_FORMAT_BITS:
            extent = chunk_size
        self._put_i_u(here, self._chunk_format(extent))

    def _put_i_u(self, here: int, value: int) -> None:
        self._new[here + 2] = self._new[here + 2] & ~_LOW32 | value

    def _chunk_format(self, extent: int) -> int:
        return CHUNK_FORMAT_INDEXES | (extent // self._block).bit_length() - 1

    def _end_of(self, here: int) -> int:
        """The byte behind the inode at *here* and what follows it."""
        size, layout, behind = self._shape(here)
        if layout == LAYOUT_INLINE:
            return behind + size % self._block
        if layout == LAYOUT_CHUNKS:
            return behind + -behind % _WORD + -(-size // self.bootstrap.chunk_size) * _WORD
        return behind

    def _unknown(self, here: int, entry: int) -> FormatInvalid:
        nid = (here - self.bootstrap.header.meta_offset // _WORD) // _NID_WORDS
        blob, index, block = split_entry(entry)
        return FormatInvalid(
            f"inode {nid}: has a chunk that is chunk {index} of blob {blob} at block {block}; the chunk info"
            " has no such chunk there"
        )
