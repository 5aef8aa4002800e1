"""The bootstrap inside a layer's blob object: where it is, and making it one that can be opened.

Tools that convert layer by layer put each layer's bootstrap at the end of its own blob. Such a bootstrap
cannot know the digest of the object it is part of; whoever has the object puts it in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .codes import (
    DEVICE_SLOTS_OFFSET,
    EROFS_MAGIC,
    SECTION_BOOTSTRAP,
    SUPERBLOCK_OFFSET,
    V5_MAGIC,
    BlobFeature,
)
from .errors import FormatInvalid
from .findings import refuse
from .header import read_header
from .records import BLOB_ENTRY, DEVICE_SLOT, TAR_HEADER
from .toc import MAX_TOC, parse_toc, tar_entry

MAX_BOOTSTRAP: Final = 1 << 30  # bytes: ten times that of a million files

ReadObject = Callable[[int, int], bytes]
"""(offset, size) -> exactly those bytes of the object."""


def is_bootstrap(start: bytes, end: bytes) -> bool:
    """Whether a file that begins with *start*, 1028 bytes or more, is a bootstrap by itself, v5 or v6.

    *end*: its last 512 bytes. The object of a layer without data may begin with its bootstrap, too, but ends
    with a tar header.
    """
    if int.from_bytes(start[:4], "little") == V5_MAGIC:
        return True
    if int.from_bytes(start[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + 4], "little") != EROFS_MAGIC:
        return False
    try:
        return tar_entry(end)[0] != SECTION_BOOTSTRAP
    except FormatInvalid:
        return True


def inlined_bootstrap(size: int, read: ReadObject) -> bytes:
    """The bootstrap inside a blob object of *size* bytes, with and without a table of contents.

    Raises:
        FormatInvalid: there is none, or it is damaged.
        and what *read* raises.
    """
    if size < TAR_HEADER.size:
        raise FormatInvalid(f"{size} bytes are neither a bootstrap nor a blob object with one")
    end = size - TAR_HEADER.size
    try:
        name, length = tar_entry(read(end, TAR_HEADER.size))
    except FormatInvalid as error:
        raise FormatInvalid("it is neither a bootstrap nor a blob object with one") from error
    if name == SECTION_BOOTSTRAP:
        if length > min(end, MAX_BOOTSTRAP):
            raise FormatInvalid(f"the inlined bootstrap has {length} bytes, the object {size}")
        return read(end - length, length)
    if length > min(end, MAX_TOC - TAR_HEADER.size):
        raise FormatInvalid(f"the object ends with {name!r} of {length} bytes, which is no table of contents")
    section = parse_toc(read(end - length, length + TAR_HEADER.size)).get(SECTION_BOOTSTRAP)
    if section is None:
        raise FormatInvalid("the blob object has no bootstrap inside; name the bootstrap it belongs to")
    if section.offset + section.stored_size > end or section.size > MAX_BOOTSTRAP:
        raise FormatInvalid(
            f"the inlined bootstrap of {section.size} bytes is at {section.offset} of {size}: impossible"
        )
    return section.unpack(read(section.offset, section.stored_size))


def with_blob_id(raw: bytes, blob_id: str) -> bytes:
    """The inlined bootstrap *raw* with *blob_id* (64 hex digits) for the object it was found in.

    That is its blob, or of a reference to a tar layer, whose digest is known, what has the blob's tables.

    Raises:
        FormatInvalid, FormatUnsupported: as `Bootstrap`.
    """
    header = read_header(raw, refuse)
    if header is None:
        raise FormatInvalid("bootstrap refused: its tables do not describe an image")
    filled = bytearray(raw)
    for blob in header.blobs:
        if not blob.features & BlobFeature.INLINED_FS_META:
            continue
        row = header.extended.blob_table_offset + blob.index * BLOB_ENTRY.size
        if blob.features & BlobFeature.SEPARATE:
            entry = BLOB_ENTRY.unpack(raw, row)._replace(meta_digest=bytes.fromhex(blob_id))
            filled[row : row + BLOB_ENTRY.size] = BLOB_ENTRY.pack(entry)
            continue
        for start in (row, DEVICE_SLOTS_OFFSET + blob.index * DEVICE_SLOT.size):
            filled[start : start + len(blob_id)] = blob_id.encode("ascii")
    return bytes(filled)
