"""Maps of sparse tar members: GNU's old form and the three PAX ones (0.0, 0.1, 1.0).

A map says where the stored bytes belong; the rest of the file is zeros. Every map is checked to be
ascending, inside the file and exactly as long as the stored bytes, so whoever uses it may trust it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from builder.layers.pax import Records, decimal
from builder.layers.tar_header import BLOCK, Header, Malformed, Unshowable, number
from rafs.counted import counted

_OLD_FIRST_AT: Final = 386  # 4 pieces of 24 bytes in the header itself
_OLD_EXTENDED_AT: Final = 482
_OLD_REAL_SIZE: Final = slice(483, 495)
_EXTENSION_PIECES: Final = 21
_EXTENSION_MORE_AT: Final = 504
_PIECES_LIMIT: Final = 1 << 20  # a map of 16 MB and more is an attack, or a file nobody can use
_SIZE_LIMIT: Final = 1 << 40  # bytes; each 256 KiB of zeros costs 8 bytes of bootstrap

Take = Callable[[int], bytes]  # the next n bytes of the tar, or Malformed


class SparseMap(NamedTuple):
    """A sparse file: its whole size and (file offset, size) of what is stored, in order."""

    size: int
    stored: tuple[tuple[int, int], ...]


def old_gnu_map(header: Header, take: Take) -> SparseMap:
    """The map in a type `S` header and the extension blocks that follow it, which *take* consumes."""
    raw = header.raw
    fields = _old_fields(raw[_OLD_FIRST_AT:_OLD_EXTENDED_AT])
    more = raw[_OLD_EXTENDED_AT]
    while more:
        block = take(BLOCK)
        fields += _old_fields(block[: _EXTENSION_PIECES * 24])
        more = block[_EXTENSION_MORE_AT]
        _limit(len(fields))
    return _checked(number(raw[_OLD_REAL_SIZE], "real size"), fields)


def pax_map(records: Records, take: Take) -> SparseMap | None:
    """The map that *records* describe, None if the member is not sparse.

    For form 1.0 *take* consumes the blocks at the start of the body that hold the map.
    """
    named = dict(records)
    if named.get(b"GNU.sparse.major") == b"1" and named.get(b"GNU.sparse.minor") == b"0":
        return _checked(_size(named), _body_map(take))
    if b"GNU.sparse.map" in named:
        return _checked(_size(named), _number_pairs(named[b"GNU.sparse.map"].split(b",")))
    if b"GNU.sparse.numblocks" in named:
        wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        numbers = [value for keyword, value in records if keyword in wanted]
        return _checked(_size(named), _number_pairs(numbers))
    if b"GNU.sparse.major" in named:
        raise Unshowable("GNU sparse format of an unknown version; repack the layer without --sparse")
    return None


def check_stored(sparse: SparseMap, stored_size: int) -> None:
    """Return if the map covers exactly *stored_size* bytes.

    Raises:
        Malformed: it does not.
    """
    covered = sum(size for _, size in sparse.stored)
    if covered != stored_size:
        raise Malformed(f"sparse map covers {counted(covered, 'byte')}, {stored_size} are stored")


def _checked(size: int, pairs: Sequence[tuple[int, int]]) -> SparseMap:
    if size < 0:
        raise Malformed(f"sparse file of {size} bytes")
    if size > _SIZE_LIMIT:
        raise Unshowable(f"sparse file of {size} bytes, the limit is {_SIZE_LIMIT}")
    end = 0
    for offset, length in pairs:
        if length < 0 or offset < end or offset + length > size:
            raise Malformed(f"sparse piece {offset}+{length} overlaps another or leaves the {size} bytes")
        end = offset + length
    return SparseMap(size, tuple((offset, length) for offset, length in pairs if length))


def _old_fields(area: bytes) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(area) - 23, 24):
        if not area[at]:
            break
        pairs.append(
            (number(area[at : at + 12], "sparse offset"), number(area[at + 12 : at + 24], "sparse size"))
        )
    return pairs


def _number_pairs(values: list[bytes]) -> list[tuple[int, int]]:
    if values == [b""]:
        return []
    if len(values) % 2:
        raise Malformed(f"sparse map of {len(values)} numbers, expected pairs")
    _limit(len(values) // 2)
    numbers = [decimal(value, "sparse map") for value in values]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _body_map(take: Take) -> list[tuple[int, int]]:
    text = take(BLOCK)
    while b"\n" not in text:
        if len(text) > 20:
            raise Malformed("sparse map in the body does not start with its count")
        text += take(BLOCK)
    count = decimal(text.split(b"\n", 1)[0], "sparse map count")
    _limit(count)
    lines = text.count(b"\n")
    blocks = [text]
    while lines < 1 + 2 * count:
        blocks.append(take(BLOCK))
        lines += blocks[-1].count(b"\n")
    return _number_pairs(b"".join(blocks).split(b"\n")[1 : 1 + 2 * count]) if count else []


def _size(named: dict[bytes, bytes]) -> int:
    # GNU tar has the second in form 1.0 only; Go's archive/tar takes either in any.
    for keyword in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
        if named.get(keyword):
            return decimal(named[keyword], keyword.decode())
    raise Malformed("sparse file without its size")


def _limit(pieces: int) -> None:
    if not 0 <= pieces <= _PIECES_LIMIT:
        raise Unshowable(f"sparse map of {pieces} pieces, the limit is {_PIECES_LIMIT}")
