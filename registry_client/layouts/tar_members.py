"""Where the members of a plain tar lie: names, kinds and byte ranges, by its headers alone.

For the few files of archives and bootstrap layers; what a layer's tar means as a tree of files is another
matter, with a reader of its own (`builder.layers`). The standard library parses single headers here and
no more: its `TarFile` goes back, and round for ever, by a negative size, ends silently at a broken header,
and fills the holes of a sparse file with as many zeros as the header asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from tarfile import (
    BLKTYPE,
    BLOCKSIZE,
    CHRTYPE,
    DIRTYPE,
    FIFOTYPE,
    GNUTYPE_LONGLINK,
    GNUTYPE_LONGNAME,
    GNUTYPE_SPARSE,
    LNKTYPE,
    NUL,
    REGULAR_TYPES,
    SOLARIS_XHDTYPE,
    SYMTYPE,
    XGLTYPE,
    XHDTYPE,
    TarError,
    TarInfo,
)
from typing import Final

EXTENSION_LIMIT: Final = 1 << 20  # bytes of an extended header; Go's archive/tar refuses more
HEADERS_LIMIT: Final = 1 << 16  # a few seconds; the largest archives have some thousand

_PAX: Final = frozenset({XHDTYPE, SOLARIS_XHDTYPE})
_EXTENSIONS: Final = _PAX | {XGLTYPE, GNUTYPE_LONGNAME, GNUTYPE_LONGLINK}
# As Go's archive/tar has it, whatever their size field says.
_WITHOUT_BODY: Final = frozenset({LNKTYPE, SYMTYPE, CHRTYPE, BLKTYPE, DIRTYPE, FIFOTYPE})
_SPARSE_RECORDS: Final = b"GNU.sparse."
_MORE_HOLES_AT: Final = 482  # in an old GNU header: whether a block of its map follows
_MORE_HOLES_AGAIN_AT: Final = 504  # the same in such a block

ReadTar = Callable[[int, int], bytes]
"""(offset, size) -> those bytes of the tar."""


class TarInvalid(Exception):
    """No tar, or a broken one; callers say which tar, and what that means."""


class MemberKind(Enum):
    """What a name in a tar is."""

    FILE = auto()
    SPARSE = auto()  # a file whose body is not its content
    SYMLINK = auto()
    HARD_LINK = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member. The body of a file is its content."""

    name: str  # as it is written there; bytes that are no UTF-8 as surrogates
    kind: MemberKind
    link: str  # what a link leads to
    offset: int  # bytes from the start of the tar to the body
    size: int  # bytes of the body, all of them in the tar


def tar_members(size: int, read: ReadTar) -> Iterator[TarMember]:
    """The members of a tar of *size* bytes, in its order; ends at a block of zeros or with the tar.

    Global PAX headers are passed over, as Go does. What *read* raises passes through.

    Raises:
        TarInvalid: not a tar, one that ends within a member, or one of more than `HEADERS_LIMIT` headers.
    """
    if not size:
        raise TarInvalid("it is empty")
    at = 0
    said: dict[bytes, bytes] = {}  # by the extended headers before a member
    for _ in range(HEADERS_LIMIT):
        if at == size:
            return
        block = _read(read, size, at, BLOCKSIZE, "a header")
        if not any(block):
            return
        header = _header(block, at)
        body = at + BLOCKSIZE
        length = header.size
        if header.type in _EXTENSIONS:
            if length > EXTENSION_LIMIT:
                raise TarInvalid(f"the extended header at byte {at} has {length} bytes")
            content = _read(read, size, body, length, "an extended header")
            if header.type in _PAX:
                said |= _pax_records(content, at)
            elif header.type != XGLTYPE:
                said[b"path" if header.type == GNUTYPE_LONGNAME else b"linkpath"] = content.split(NUL)[0]
            at = _after(body, length, size)
            continue
        if header.type == GNUTYPE_SPARSE:
            body = _after_map(block, body, size, read)
        length = 0 if header.type in _WITHOUT_BODY else _length(said, header)
        name = _text(said[b"path"]) if b"path" in said else header.name
        if not 0 <= length <= size - body:
            raise TarInvalid(f"{name[:200]!r} has {length} bytes, {size - body} are there")
        link = _text(said[b"linkpath"]) if b"linkpath" in said else header.linkname
        yield TarMember(name, _kind(header, said), link, body, length)
        at, said = _after(body, length, size), {}
    raise TarInvalid(f"it has more than {HEADERS_LIMIT} headers")


def _read(read: ReadTar, size: int, offset: int, wanted: int, what: str) -> bytes:
    if not 0 <= wanted <= size - offset:
        raise TarInvalid(f"it ends within {what} at byte {offset}")
    found = read(offset, wanted)
    if len(found) != wanted:
        raise TarInvalid(f"it ends within {what} at byte {offset}")
    return found


def _header(block: bytes, at: int) -> TarInfo:
    try:
        return TarInfo.frombuf(block, "utf-8", "surrogateescape")  # type: ignore[arg-type,unused-ignore]
    except (TarError, ValueError) as error:
        raise TarInvalid(f"byte {at} begins no header: {error}") from error


def _after(body: int, length: int, size: int) -> int:
    """Where the next header is; the filling of the last block may be missing."""
    return min(body + length + -length % BLOCKSIZE, size)


def _after_map(block: bytes, body: int, size: int, read: ReadTar) -> int:
    """Where the body of an old GNU sparse file begins, behind the blocks of its map."""
    more = block[_MORE_HOLES_AT]
    while more:
        more = _read(read, size, body, BLOCKSIZE, "the map of a sparse file")[_MORE_HOLES_AGAIN_AT]
        body += BLOCKSIZE
    return body


def _length(said: dict[bytes, bytes], header: TarInfo) -> int:
    stated = said.get(b"size")
    if stated is None:
        return header.size
    if not stated.isdigit() or len(stated) > 19:
        raise TarInvalid(f"a PAX size is {stated[:40]!r}, expected a decimal number")
    return int(stated)


def _kind(header: TarInfo, said: dict[bytes, bytes]) -> MemberKind:
    if header.type == SYMTYPE:
        return MemberKind.SYMLINK
    if header.type == LNKTYPE:
        return MemberKind.HARD_LINK
    if header.type == GNUTYPE_SPARSE or any(keyword.startswith(_SPARSE_RECORDS) for keyword in said):
        return MemberKind.SPARSE
    return MemberKind.FILE if header.type in REGULAR_TYPES else MemberKind.OTHER


def _pax_records(content: bytes, at: int) -> dict[bytes, bytes]:
    records = {}
    place = 0
    while place < len(content):
        space = content.find(b" ", place, place + 21)
        digits = content[place:space] if space > 0 else b""
        end = place + int(digits) if digits.isdigit() else 0
        keyword, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not space < end - 1 < len(content) or content[end - 1 : end] != b"\n" or not equals:
            raise TarInvalid(f"the PAX header at byte {at} is not of lines 'length keyword=value'")
        records[keyword] = value
        place = end
    return records


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
