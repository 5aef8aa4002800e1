"""A small reader of localised images, by the rules of EROFS and nothing of ours: what Linux would see."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PAGE = 4096


@dataclass(frozen=True)
class ErofsInode:
    """Attributes as they are stored; *fields* are those that localising must not touch."""

    nid: int
    layout: int
    mode: int
    size: int
    i_u: int
    fields: tuple[int, ...]
    body: int  # byte offset behind the inode
    xattrs: bytes

    @property
    def is_directory(self) -> bool:
        return self.mode >> 12 == 4

    @property
    def is_regular(self) -> bool:
        return self.mode >> 12 == 8


class ErofsImage:
    """The primary device, read as Linux does."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        magic, _, self.compat = struct.unpack_from("<III", raw, 1024)
        assert magic == 0xE0F5E1E2
        assert raw[1024 + 12] in (9, 12)
        self.block = 1 << raw[1024 + 12]
        (self.root,) = struct.unpack_from("<H", raw, 1024 + 14)
        self.blocks, self.meta_block = struct.unpack_from("<II", raw, 1024 + 36)
        (self.incompat,) = struct.unpack_from("<I", raw, 1024 + 80)
        count, slot = struct.unpack_from("<HH", raw, 1024 + 86)
        table = raw[slot * 128 : slot * 128 + 128 * count]
        self.devices = list(struct.iter_unpack("<64sII56x", table))  # tag, blocks, uniaddr
        self.id_mask = (1 << count.bit_length()) - 1

    def inode(self, nid: int) -> ErofsInode:
        at = self.meta_block * self.block + 32 * nid
        i_format, icount, mode = struct.unpack_from("<HHH", self.raw, at)
        if i_format & 1:
            size, i_u, *others = struct.unpack_from("<QIIIIQII", self.raw, at + 8)
            body = at + 64
        else:
            nlink, size, i_u, *others = struct.unpack_from("<HI4xIIHH", self.raw, at + 6)
            others.append(nlink)
            body = at + 32
        xattrs = self.raw[body : body + 12 + 4 * (icount - 1)] if icount else b""
        return ErofsInode(
            nid, i_format >> 1, mode, size, i_u, (i_format, icount, mode, size, *others), body, xattrs
        )

    def content(self, inode: ErofsInode) -> bytes:
        """The bytes of a directory or symlink."""
        assert inode.layout in (0, 2)
        tail = inode.size % self.block if inode.layout == 2 else 0
        start = inode.i_u * self.block
        behind = inode.body + len(inode.xattrs)
        if tail:
            assert behind // self.block == (behind + tail - 1) // self.block
        whole = self.raw[start : start + inode.size - tail] if inode.size > tail else b""
        return whole + self.raw[behind : behind + tail]

    def pages(self, inode: ErofsInode) -> Iterator[tuple[int, int]]:
        """(device, page in it) of each page of a regular file."""
        if not inode.size:
            return
        assert inode.layout == 4
        assert inode.i_u & ~0x1F == 0x20
        bits = inode.i_u & 0x1F
        entries = inode.body + len(inode.xattrs)
        entries += -entries % 8
        for first in range(0, -(-inode.size // self.block), _PAGE // self.block):
            _, device, block = struct.unpack_from("<HHI", self.raw, entries + 8 * (first >> bits))
            place = (block + (first & (1 << bits) - 1)) * self.block
            assert place % _PAGE == 0
            yield device & self.id_mask, place // _PAGE

    def walk(self) -> Iterator[tuple[bytes, ErofsInode]]:
        """(path, inode) of every name."""
        pending = [(b"", self.root)]
        while pending:
            path, nid = pending.pop()
            inode = self.inode(nid)
            yield path or b"/", inode
            if inode.is_directory:
                stream = self.content(inode)
                for start in range(0, len(stream), self.block):
                    pending += [
                        (path + b"/" + name, child)
                        for name, child in _names(stream[start : start + self.block])
                        if name not in (b".", b"..")
                    ]


def _names(block: bytes) -> Iterator[tuple[bytes, int]]:
    count = struct.unpack_from("<H", block, 8)[0] // 12
    entries = list(struct.iter_unpack("<QHBB", block[: 12 * count]))
    ends = [entry[1] for entry in entries[1:]] + [len(block)]
    for (nid, start, _, _), end in zip(entries, ends, strict=True):
        yield block[start:end].split(b"\0")[0], nid
