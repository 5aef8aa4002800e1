"""What a PAX extended header says: names, numbers, times and extended attributes.

Records of the classes `SCHILY.xattr` (everyone) and `LIBARCHIVE.xattr` (bsdtar) become xattrs; the former
wins where both name one. ACLs in star's text form are not read, as no container tool reads them. Sparse
maps: `sparse`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import unquote_to_bytes

from builder.layers.tar_header import Malformed

BODY_LIMIT: Final = 1 << 20  # bytes; Go's archive/tar refuses more, so no layer in use has more

_SCHILY_XATTR: Final = b"SCHILY.xattr."
_LIBARCHIVE_XATTR: Final = b"LIBARCHIVE.xattr."
_NANOSECONDS_DIGITS: Final = 9

Records = list[tuple[bytes, bytes]]


def parse_records(body: bytes) -> Records:
    """(keyword, value) pairs in order; GNU sparse 0.0 repeats keywords, so this is no dict.

    Raises:
        Malformed: a record's length is not what it says, or a keyword is missing.
    """
    records: Records = []
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 21)
        digits = body[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise Malformed(f"PAX record at byte {at} has no length")
        end = at + int(digits)
        keyword, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end > len(body) or end <= space + 1 or body[end - 1 : end] != b"\n" or not equals or not keyword:
            raise Malformed(f"PAX record at byte {at} of {len(body)} is not 'length keyword=value\\n'")
        records.append((keyword, value))
        at = end
    return records


def decimal(value: bytes, keyword: str) -> int:
    """A PAX number.

    Raises:
        Malformed: not decimal digits, or more than 64 bits.
    """
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 19:
        raise Malformed(f"PAX {keyword} is {value[:40]!r}, expected a decimal number")
    return int(value)


def seconds(value: bytes) -> tuple[int, int]:
    """A PAX time as whole seconds and nanoseconds counted forward from them; more digits are cut off.

    Raises:
        Malformed: not `[-]seconds[.fraction]`.
    """
    whole, dot, fraction = value.partition(b".")
    if dot and fraction.strip(b"0123456789"):
        raise Malformed(f"PAX mtime is {value[:40]!r}, expected seconds with an optional fraction")
    nanoseconds = int(fraction[:_NANOSECONDS_DIGITS].ljust(_NANOSECONDS_DIGITS, b"0"))
    result = decimal(whole, "mtime")
    if whole.startswith(b"-") and nanoseconds:
        return result - 1, 10**_NANOSECONDS_DIGITS - nanoseconds
    return result, nanoseconds


def xattrs(records: Records) -> dict[bytes, bytes] | None:
    """Extended attributes by full name, None if there are none.

    Raises:
        Malformed: a bsdtar attribute whose value is not base64.
    """
    found: dict[bytes, bytes] = {}
    for keyword, value in records:
        if keyword.startswith(_LIBARCHIVE_XATTR):
            name = unquote_to_bytes(keyword[len(_LIBARCHIVE_XATTR) :])
            try:
                found[name] = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
            except binascii.Error as error:
                raise Malformed(f"xattr {name!r} is not base64") from error
    for keyword, value in records:
        if keyword.startswith(_SCHILY_XATTR):
            found[keyword[len(_SCHILY_XATTR) :]] = value
    return found or None
