"""What a layer's tar holds: its entries with bytes paths, exact times and the place of each file's bytes.

A reader of our own, since the standard library's `tarfile` decodes names to text, keeps times as floats,
keeps every member in memory with its bookkeeping, and refuses streams that end without padding (`umoci
insert` writes them). Where dialects disagree it does what Go's archive/tar does: links, devices,
directories and fifos have no body whatever their size field says; global PAX headers are skipped, not
applied; `..` is resolved inside the root.

Not here: whiteouts and layers (`overlay`), and the bytes of files, which stay in the spool.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from builder import pax, sparse
from builder.errors import LayerInvalid, LayerUnsupported
from builder.scratch import ScratchFile
from builder.sparse import Piece
from builder.tar_header import BLOCK, Header, Malformed, Unshowable, parse_header, text
from rafs.tree import Node, PlanInvalid, device_number

_READ_AHEAD: Final = 256 << 10  # bytes; one read serves the headers of many small files
_NAME_LIMIT: Final = 255  # bytes, of EROFS and of Linux
_PATH_LIMIT: Final = 4095  # bytes, Linux
_TARGET_LIMIT: Final = 4095  # bytes of a symlink, Linux
_ID_LIMIT: Final = 1 << 32
_SECONDS_LIMIT: Final = 1 << 63
_ZEROS: Final = bytes(BLOCK)

_TYPES: Final = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,  # contiguous, a wish about storage
    b"S": stat.S_IFREG,  # old GNU sparse
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_HARD_LINK: Final = b"1"
_PAX: Final = b"x"
_PAX_GLOBAL: Final = b"g"
_LONG_NAME: Final = b"L"
_LONG_LINK: Final = b"K"
_LABEL: Final = b"V"


@dataclass(slots=True)
class TarEntry:
    """One entry: a new inode in `node`, or a hard link to the path `link`.

    Paths are normalised: no leading slash, no `.` or `..`; the root is `b""`. `pieces` says where a regular
    file's bytes lie in the tar; what they do not cover is zeros.
    """

    path: bytes
    node: Node | None
    link: bytes = b""
    pieces: tuple[Piece, ...] = ()


def read_entries(spool: ScratchFile, layer: str) -> Iterator[TarEntry]:
    """The entries of the tar in *spool*, in its order; *layer* names it in errors.

    Raises:
        LayerInvalid: not a tar, truncated, or an entry breaks a rule of tar.
        LayerUnsupported: an entry that no Linux file system image can show.
    """
    cursor = _Cursor(spool)
    named = b""
    began = 0
    try:
        while (header := _next_header(cursor)) is not None:
            began = cursor.at - BLOCK
            named = _joined(header)
            extended: pax.Records = []
            long_name = long_link = None
            while header.kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _LABEL):
                body = cursor.body(header.size)
                if header.kind == _PAX:
                    extended = pax.parse_records(body)
                elif header.kind == _LONG_NAME:
                    long_name = text(body)
                elif header.kind == _LONG_LINK:
                    long_link = text(body)
                following = _next_header(cursor)
                if following is None:
                    if header.kind in (_PAX_GLOBAL, _LABEL):
                        return
                    raise Malformed("the tar ends between an extended header and its entry")
                header = following
            named = long_name or dict(extended).get(b"path") or _joined(header)
            yield _entry(cursor, header, extended, long_name, long_link)
    except Malformed as error:
        raise LayerInvalid(_at(layer, named, began, error)) from error
    except (Unshowable, PlanInvalid) as error:
        raise LayerUnsupported(_at(layer, named, began, error)) from error


def normal_path(name: bytes) -> bytes:
    """*name* inside the root: no leading slash, `.` or empty part; `..` goes back as far as the root.

    Raises:
        Malformed: a NUL byte in it.
        Unshowable: longer than 4095 bytes, or a part longer than 255.
    """
    if b"\0" in name:
        raise Malformed("a name with a NUL byte")
    if len(name) > _PATH_LIMIT:
        raise Unshowable(f"a path of {len(name)} bytes, the limit is {_PATH_LIMIT}")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            del parts[-1:]
            continue
        if len(part) > _NAME_LIMIT:
            raise Unshowable(f"a name of {len(part)} bytes, the limit is {_NAME_LIMIT}")
        parts.append(part)
    return b"/".join(parts)


def _entry(
    cursor: _Cursor, header: Header, records: pax.Records, long_name: bytes | None, long_link: bytes | None
) -> TarEntry:
    fields = dict(records)
    name = long_name or fields.get(b"GNU.sparse.name") or fields.get(b"path") or _joined(header)
    link = long_link or fields.get(b"linkpath") or header.link
    path = normal_path(name)
    if header.kind == _HARD_LINK:
        if not (target := normal_path(link)):
            raise Malformed("a hard link to nothing")
        return TarEntry(path, None, link=target)
    file_type = _TYPES.get(header.kind)
    if file_type is None:
        raise Unshowable(f"type {header.kind!r}; repack the layer with an ordinary tar program")
    if header.kind == b"\0" and name.endswith(b"/"):
        file_type = stat.S_IFDIR
    node = _node(header, fields, records, file_type)
    if file_type == stat.S_IFREG:
        return TarEntry(path, node, pieces=_pieces(cursor, header, fields, records, node))
    if file_type == stat.S_IFLNK:
        if not 0 < len(link) <= _TARGET_LIMIT or b"\0" in link:
            raise Unshowable(f"a symbolic link of {len(link)} bytes, possible are 1 to {_TARGET_LIMIT}")
        node.target = link
    elif file_type in (stat.S_IFCHR, stat.S_IFBLK):
        node.rdev = device_number(header.major, header.minor)
    return TarEntry(path, node)


def _node(header: Header, fields: dict[bytes, bytes], records: pax.Records, file_type: int) -> Node:
    uid = pax.decimal(fields[b"uid"], "uid") if fields.get(b"uid") else header.uid
    gid = pax.decimal(fields[b"gid"], "gid") if fields.get(b"gid") else header.gid
    if not (0 <= uid < _ID_LIMIT and 0 <= gid < _ID_LIMIT):
        raise Malformed(f"owner {uid}:{gid}, both have to be 0 to {_ID_LIMIT - 1}")
    mtime, nanoseconds = pax.seconds(fields[b"mtime"]) if fields.get(b"mtime") else (header.mtime, 0)
    if not -_SECONDS_LIMIT <= mtime < _SECONDS_LIMIT:
        raise Malformed(f"mtime {mtime} has more than 64 bits")
    return Node(
        mode=file_type | header.mode & 0o7777,
        uid=uid,
        gid=gid,
        mtime=mtime,
        mtime_ns=nanoseconds,
        xattrs=pax.xattrs(records) if records else None,
    )


def _pieces(
    cursor: _Cursor, header: Header, fields: dict[bytes, bytes], records: pax.Records, node: Node
) -> tuple[Piece, ...]:
    stored = pax.decimal(fields[b"size"], "size") if fields.get(b"size") else header.size
    body_at = cursor.at
    if header.kind == b"S":
        shape: sparse.SparseMap | None = sparse.old_gnu_map(header, cursor.take)
        body_at = cursor.at
    else:
        shape = sparse.pax_map(records, cursor.take) if records else None
    start = cursor.at
    cursor.skip(body_at, stored)
    if shape is not None:
        node.size = shape.size
        return sparse.place(shape, start, stored - (start - body_at))
    node.size = stored
    return (Piece(0, stored, start),) if stored else ()


def _joined(header: Header) -> bytes:
    return header.prefix + b"/" + header.name if header.prefix else header.name


def _at(layer: str, name: bytes, offset: int, error: Exception) -> str:
    return f"layer {layer}: tar entry {repr(name[:200])[1:]} at byte {offset}: {error}"


def _next_header(cursor: _Cursor) -> Header | None:
    """The next header, None at the end: two zero blocks, one at the very end, or no more bytes."""
    block = cursor.block()
    if block == _ZEROS:
        if cursor.block().strip(b"\0"):
            raise Malformed("a single block of zeros between entries; the tar is corrupt here")
        return None
    if not block.strip(b"\0"):
        return None
    if len(block) < BLOCK:
        raise Malformed(f"the tar ends inside a header, {len(block)} bytes after the previous entry")
    return parse_header(block)


class _Cursor:
    """A position in the tar; small reads are served from one read-ahead buffer."""

    def __init__(self, spool: ScratchFile) -> None:
        self._spool = spool
        self._buffer = b""
        self._buffer_at = 0
        self.at = 0

    def block(self) -> bytes:
        """The next block; shorter, down to empty, only at the end."""
        start = self.at - self._buffer_at
        if not 0 <= start <= len(self._buffer) - BLOCK:
            self._buffer = self._spool.read(self.at, _READ_AHEAD)
            self._buffer_at, start = self.at, 0
        block = self._buffer[start : start + BLOCK]
        self.at += len(block)
        return block

    def take(self, size: int) -> bytes:
        """Exactly the next *size* bytes."""
        taken = self._spool.read(self.at, size)
        if len(taken) < size:
            raise Malformed(f"the tar ends {size - len(taken)} bytes before the end of this entry")
        self.at += size
        return taken

    def body(self, size: int) -> bytes:
        """The body of an extended header, with its padding skipped."""
        if not 0 <= size <= pax.BODY_LIMIT:
            raise Malformed(f"an extended header of {size} bytes, the limit is {pax.BODY_LIMIT}")
        body_at = self.at
        body = self.take(size)
        self.skip(body_at, size)
        return body

    def skip(self, body_at: int, size: int) -> None:
        """Go behind a body of *size* bytes at *body_at* and its padding, which may be missing at the end."""
        end = body_at + size
        if size < 0 or self.at > end or end > self._spool.size:
            there = self._spool.size - body_at
            raise Malformed(f"a body of {size} bytes, the tar ends {there} bytes after its start")
        self.at = min(end + -size % BLOCK, self._spool.size)
