"""What a layer's tar holds: its entries with bytes paths, exact times and the digests of each file's chunks.

A reader of our own, since the standard library's `tarfile` decodes names to text, keeps times as floats,
keeps every member in memory with its bookkeeping, and refuses streams that end without padding (`umoci
insert` writes them). Where dialects disagree it does what Go's archive/tar does: links, devices,
directories and fifos have no body whatever their size field says; global PAX headers are skipped, not
applied; `..` is resolved inside the root.

Not here: whiteouts and layers (`overlay`), and the bytes of chunks, which go to whoever asked for them.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from builder.errors import LayerInvalid, LayerUnsupported
from builder.layers import pax, sparse
from builder.layers.digest_runs import DigestRuns
from builder.layers.layer_room import LayerRoom
from builder.layers.tar_header import BLOCK, Header, Malformed, Unshowable, parse_header, text
from builder.layers.tar_stream import TarStream
from builder.layers.xattr_rules import needed_xattrs
from rafs.counted import counted
from rafs.tree import NO_CHILDREN, Node, PlanInvalid, device_number

WHITEOUT: Final = b".wh."  # in front of a name that is gone; OCI image-spec, layer.md
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
_EXTENSIONS: Final = frozenset({_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _LABEL})
_DOTS: Final = frozenset({b"", b".", b".."})
_NO_FIELDS: Final[dict[bytes, bytes]] = {}


# Gets the bytes of each chunk in the order of the tar, valid only during the call; returns their digest.
TakeChunk = Callable[[bytes | memoryview], bytes]


@dataclass(slots=True)
class TarEntry:
    """One entry: a new inode in `node`, or a hard link to the path `link`.

    Paths are normalised: no leading slash, no `.` or `..`; the root is `b""`. `digests` are those of a
    regular file's chunks, in the order of the file; holes are chunks of zeros.
    """

    path: bytes
    node: Node | None
    link: bytes = b""
    digests: Sequence[bytes] = ()


def read_entries(stream: TarStream, layer: str, *, chunk_size: int, take: TakeChunk) -> Iterator[TarEntry]:
    """The entries of the tar in *stream*, in its order; *layer* names it in errors.

    Files are cut every *chunk_size* bytes, and *take* gets each chunk. What *take* raises passes through.

    Raises:
        LayerInvalid: not a tar, truncated, or an entry breaks a rule of tar.
        LayerUnsupported: an entry that no Linux file system image can show, or more than an image can have.
    """
    bodies = _Bodies(stream, chunk_size, take)
    named = b""
    began = 0
    try:
        while (header := _next_header(stream)) is not None:
            began = stream.at - BLOCK
            named = _joined(header)
            extended: pax.Records = []
            long_name = long_link = None
            while header.kind in _EXTENSIONS:
                body = _extension(stream, header.size)
                if header.kind == _PAX:
                    extended = pax.parse_records(body)
                elif header.kind == _LONG_NAME:
                    long_name = text(body)
                elif header.kind == _LONG_LINK:
                    long_link = text(body)
                following = _next_header(stream)
                if following is None:
                    if header.kind in (_PAX_GLOBAL, _LABEL):
                        return
                    raise Malformed("the tar ends between an extended header and its entry")
                header = following
                named = long_name or dict(extended).get(b"path") or _joined(header)
            yield _entry(bodies, header, extended, long_name, long_link)
    except Malformed as error:
        raise LayerInvalid(_at(layer, named, began, error)) from error
    except (Unshowable, PlanInvalid) as error:
        raise LayerUnsupported(_at(layer, named, began, error)) from error


def normal_path(name: bytes) -> bytes:
    """*name* inside the root: no leading slash, `.` or empty part; `..` goes back as far as the root.

    Raises:
        Malformed: a NUL byte in it.
        Unshowable: longer than 4095 bytes, or a part longer than 255, less `WHITEOUT` in the last one.
    """
    folder, _, last = name.rstrip(b"/").rpartition(b"/")
    # A mark is not shown, so the name it takes away may have all the bytes a name can have.
    longest = _NAME_LIMIT + len(WHITEOUT) if last.startswith(WHITEOUT) else _NAME_LIMIT
    if last in _DOTS or len(last) > longest or len(name) > _PATH_LIMIT or b"\0" in last:
        return _normal(name)
    return above + b"/" + last if (above := _normal_folder(folder)) else last


def _normal(name: bytes) -> bytes:
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


_normal_folder: Final = lru_cache(maxsize=1 << 10)(_normal)  # files of one folder come together


def _entry(
    bodies: _Bodies, header: Header, records: pax.Records, long_name: bytes | None, long_link: bytes | None
) -> TarEntry:
    fields = dict(records) if records else _NO_FIELDS
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
    node = _node(bodies, header, fields, records, file_type)
    if file_type == stat.S_IFREG:
        return TarEntry(path, node, b"", _digests(bodies, header, fields, records, node))
    if file_type == stat.S_IFLNK:
        if not 0 < len(link) <= _TARGET_LIMIT or b"\0" in link:
            raise Unshowable(
                f"a symbolic link of {counted(len(link), 'byte')}, possible are 1 to {_TARGET_LIMIT}"
            )
        node.target = link
    elif file_type in (stat.S_IFCHR, stat.S_IFBLK):
        node.rdev = device_number(header.major, header.minor)
    return TarEntry(path, node)


def _node(
    bodies: _Bodies, header: Header, fields: dict[bytes, bytes], records: pax.Records, file_type: int
) -> Node:
    uid = pax.decimal(fields[b"uid"], "uid") if fields.get(b"uid") else header.uid
    gid = pax.decimal(fields[b"gid"], "gid") if fields.get(b"gid") else header.gid
    if not (0 <= uid < _ID_LIMIT and 0 <= gid < _ID_LIMIT):
        raise Malformed(f"owner {uid}:{gid}, both have to be 0 to {_ID_LIMIT - 1}")
    mtime, nanoseconds = pax.seconds(fields[b"mtime"]) if fields.get(b"mtime") else (header.mtime, 0)
    if not -_SECONDS_LIMIT <= mtime < _SECONDS_LIMIT:
        raise Malformed(f"mtime {mtime} has more than 64 bits")
    # Linux has no other mode for symbolic links, whatever a tar says.
    mode = 0o777 if file_type == stat.S_IFLNK else header.mode & 0o7777
    return Node(
        file_type | mode,
        uid,
        gid,
        mtime,
        nanoseconds,
        xattrs=_xattrs(bodies, records) if records else None,
        children={} if file_type == stat.S_IFDIR else NO_CHILDREN,
    )


def _xattrs(bodies: _Bodies, records: pax.Records) -> dict[bytes, bytes] | None:
    found = pax.xattrs(records)
    if found is not None:
        found = needed_xattrs(found)
        bodies.room.take_xattrs(found)
    return found


def _digests(
    bodies: _Bodies, header: Header, fields: dict[bytes, bytes], records: pax.Records, node: Node
) -> Sequence[bytes]:
    """Those of the chunks of a regular file, whose size is set."""
    stored = pax.decimal(fields[b"size"], "size") if fields.get(b"size") else header.size
    stream = bodies.stream
    body_at = stream.at
    if header.kind == b"S":
        shape: sparse.SparseMap | None = sparse.old_gnu_map(header, stream.take)
        body_at = stream.at
    else:
        shape = sparse.pax_map(records, stream.take) if records else None
    if shape is None:
        node.size = stored
        return bodies.plain(stored)
    node.size = shape.size
    sparse.check_stored(shape, stored - (stream.at - body_at))
    return bodies.sparse(shape)


class _Bodies:
    """Reads the bodies of files, and cuts them into chunks, as long as there is room for what they become."""

    def __init__(self, stream: TarStream, chunk_size: int, take: TakeChunk) -> None:
        self.stream = stream
        self.room = LayerRoom(chunk_size)
        self._chunk_size = chunk_size
        self._take = take
        self._hole = b""  # the digest of a whole chunk of zeros, once one was met

    def plain(self, size: int) -> Sequence[bytes]:
        self.room.take_file(max(0, size))
        if 0 < size <= self._chunk_size:
            digests: Sequence[bytes] = (self._take(self.stream.view(size)),)
        else:
            step = self._chunk_size
            digests = [self._take(self.stream.view(min(step, size - at))) for at in range(0, size, step)]
        self._end(size)
        return digests

    def sparse(self, shape: sparse.SparseMap) -> Sequence[bytes]:
        self.room.take_file(shape.size)
        digests = DigestRuns()
        pieces = iter([*shape.stored, (shape.size, 0)])
        at, left = next(pieces)
        end = 0
        while end < shape.size:
            start, whole = end, (at - end) // self._chunk_size
            if whole:
                digests.add(self._zeros(self._chunk_size), whole)
                end += whole * self._chunk_size
                continue
            end = min(start + self._chunk_size, shape.size)
            if at >= end:
                digests.add(self._zeros(end - start))
                continue
            chunk = bytearray(end - start)
            while at < end:
                part = min(left, end - at)
                chunk[at - start : at - start + part] = self.stream.view(part)
                at, left = at + part, left - part
                if not left:
                    at, left = next(pieces)
            digests.add(self._take(bytes(chunk)))
        self._end(sum(size for _, size in shape.stored))
        return digests

    def _zeros(self, size: int) -> bytes:
        if size < self._chunk_size:
            return self._take(bytes(size))
        # Hashed once for all files.
        self._hole = self._hole or self._take(bytes(size))
        return self._hole

    def _end(self, size: int) -> None:
        """Pass over the padding of a body, which may be missing at the end of the tar."""
        if size < 0:
            raise Malformed(f"a body of {size} bytes")
        self.stream.skip(-size % BLOCK)


def _joined(header: Header) -> bytes:
    return header.prefix + b"/" + header.name if header.prefix else header.name


def _at(layer: str, name: bytes, offset: int, error: Exception) -> str:
    return f"layer {layer}: tar entry {repr(name[:200])[1:]} at byte {offset}: {error}"


def _extension(stream: TarStream, size: int) -> bytes:
    """The body of an extended header."""
    if not 0 <= size <= pax.BODY_LIMIT:
        raise Malformed(f"an extended header of {size} bytes, the limit is {pax.BODY_LIMIT}")
    body = stream.take(size)
    stream.skip(-size % BLOCK)
    return body


def _next_header(stream: TarStream) -> Header | None:
    """The next header, None at the end: two zero blocks, one at the very end, or no more bytes."""
    block = stream.block()
    if len(block) == BLOCK and block[0]:
        return parse_header(block)
    if block == _ZEROS:
        if stream.block().strip(b"\0"):
            raise Malformed("a single block of zeros between entries; the tar is corrupt here")
        return None
    if not block.strip(b"\0"):
        return None
    if len(block) < BLOCK:
        raise Malformed(
            f"the tar ends inside a header, {counted(len(block), 'byte')} after the previous entry"
        )
    return parse_header(block)
