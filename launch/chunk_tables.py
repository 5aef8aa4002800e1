"""The chunk info of an image's blobs: from the bootstrap layer if it is there, else out of the blobs.

What is fetched from a blob is checked against the table of contents whose digest the bootstrap has, so the
chain of digests reaches it; where a bootstrap has none (old images), a wrong table can only lead to chunks
that fail their own digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from launch.errors import ImageInvalid
from rafs.blob_meta import BlobMeta, parse_blob_meta, read_chunk_info
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.codes import BLOCK
from rafs.errors import FormatUnsupported
from rafs.records import CHUNK_INFO_HEADER, TAR_HEADER, TOC_ENTRY

META_LIMIT = 512 << 20  # bytes: 24 for each of the 2**24 chunks a blob can have, and its contexts

ReadBlob = Callable[[int, int], bytes]
"""(offset, size) -> exactly those bytes of the blob object."""


def read_tables(bootstrap: Bootstrap, forms: Mapping[str, bytes]) -> tuple[BlobMeta, ...]:
    """The chunks of every blob of *bootstrap*; *forms* has the chunk info in cache form by blob id.

    Raises:
        rafs.RafsError: they contradict the bootstrap, or use a feature that is not read.
    """
    return tuple(
        parse_blob_meta(record, forms[record.id], bootstrap.chunk_digests(record.index))
        for record in bootstrap.blobs
    )


def fetch_form(record: BlobRecord, object_size: int, read: ReadBlob) -> bytes:
    """The chunk info of a blob in cache form, read from its object of *object_size* bytes.

    Raises:
        ImageInvalid: it is not where, or not what, the bootstrap says.
        rafs.RafsError: it cannot be read here.
        and what *read* raises.
    """
    where = f"blob {record.id}"
    feature = record.unread_feature()
    if feature is not None:
        raise FormatUnsupported(feature, f"the chunks of {where} cannot be read")
    stored_size = record.ci_compressed_size
    if record.ci_offset + stored_size + CHUNK_INFO_HEADER.size > object_size or stored_size > META_LIMIT:
        raise ImageInvalid(f"{where}: its chunk info lies outside its {object_size} bytes")
    stored = read(record.ci_offset, stored_size + CHUNK_INFO_HEADER.size)
    array = read_chunk_info(record, stored[:stored_size])
    if record.toc_size:
        _check_against_contents(record, array, object_size, read)
    return array + bytes(-len(array) % BLOCK) + stored[stored_size:]


def _check_against_contents(record: BlobRecord, array: bytes, object_size: int, read: ReadBlob) -> None:
    where = f"blob {record.id}"
    size = record.toc_size
    if not TAR_HEADER.size < size <= min(object_size, BLOCK) or (size - TAR_HEADER.size) % TOC_ENTRY.size:
        raise ImageInvalid(f"{where}: a table of contents of {size} bytes is none")
    contents = read(object_size - size, size)
    if hashlib.sha256(contents).digest() != record.toc_digest:
        raise ImageInvalid(f"{where}: its table of contents does not have the digest the bootstrap promises")
    for entry in TOC_ENTRY.unpack_all(contents[: -TAR_HEADER.size]):
        if entry.name.rstrip(b"\0") == b"blob.meta":
            # All zeros: the writer did not know it.
            if any(entry.digest) and hashlib.sha256(array).digest() != entry.digest:
                raise ImageInvalid(f"{where}: its chunk info does not have the digest its contents promise")
            return
    raise ImageInvalid(f"{where}: its table of contents has no chunk info")
