"""The chunk info and digests of an image's blobs: from the bootstrap layer, else out of the blobs.

What is fetched from a blob is checked against the table of contents whose digest the bootstrap has, so the
chain of digests reaches it; where a bootstrap has none (old images), a wrong table can only lead to chunks
that fail their own digests.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Mapping

from launch.errors import ImageInvalid
from rafs.blob_meta import BlobMeta, parse_blob_meta, read_chunk_info
from rafs.blob_record import BlobIndex, BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.codes import BLOCK, DIGEST_SIZE, BlobFeature
from rafs.errors import FormatInvalid, FormatUnsupported
from rafs.records import CHUNK_INFO_HEADER, TAR_HEADER, TOC_ENTRY, TocEntry

META_LIMIT = 512 << 20  # bytes: 24 for each of the 2**24 chunks a blob can have, and its contexts

ReadBlob = Callable[[int, int], bytes]
"""(offset, size) -> exactly those bytes of the blob object."""


def refuse_unread(bootstrap: Bootstrap) -> None:
    """Return if the chunks of all blobs can be read.

    Raises:
        FormatUnsupported: with the name of what is not read.
    """
    for record in bootstrap.blobs:
        feature = record.unread_feature()
        if feature is not None:
            raise FormatUnsupported(feature, f"the chunks of blob {record.id} cannot be read")


def read_tables(
    bootstrap: Bootstrap, forms: Mapping[str, bytes], digests: Mapping[str, bytes]
) -> tuple[BlobMeta, ...]:
    """The chunks of every blob of *bootstrap*.

    By blob id, *forms* has the chunk info in cache form, and *digests* those of all chunks where the
    bootstrap lacks some; what the bootstrap has goes before them.

    Raises:
        ImageInvalid: a file uses a chunk whose digest the bootstrap lacks.
        rafs.RafsError: they contradict the bootstrap.
    """
    completed = _complete(bootstrap, digests) if digests else {}
    found = []
    for record in bootstrap.blobs:
        known = completed.get(record.index) or bootstrap.chunk_digests(record.index)
        found.append(parse_blob_meta(record, forms[record.id], known))
    return tuple(found)


def _complete(bootstrap: Bootstrap, digests: Mapping[str, bytes]) -> dict[int, bytes]:
    """*digests* by blob index, under what the bootstrap has itself.

    The ones below are not vouched for, and need not be as long as no file uses their chunks: no reader sees
    those, and the store names what it keeps by the digests that it checked.
    """
    joined = {rec.index: bytearray(digests[rec.id]) for rec in bootstrap.blobs if rec.id in digests}
    vouched: dict[int, set[int]] = {index: set() for index in joined}
    for row in bootstrap.chunk_rows():
        if row.blob_index in vouched:
            vouched[row.blob_index].add(row.chunk_index)
            start = row.chunk_index * DIGEST_SIZE
            joined[BlobIndex(row.blob_index)][start : start + DIGEST_SIZE] = row.digest
    for path, inode in bootstrap.walk():
        if stat.S_ISREG(inode.mode):
            for extent in bootstrap.extents(inode):
                if extent.chunk_index not in vouched.get(extent.blob_index, {extent.chunk_index}):
                    raise ImageInvalid(
                        f"{path!r} uses chunk {extent.chunk_index} of blob {extent.blob_index}, "
                        "whose digest the bootstrap lacks"
                    )
    return {index: bytes(raw) for index, raw in joined.items()}


def lacks_digests(bootstrap: Bootstrap, record: BlobRecord) -> bool:
    """Whether the digests of a blob's chunks have to be read from the blob.

    Nydus' merging drops those of chunks that no file uses any more; the blob has all of them.

    Raises:
        rafs.FormatInvalid: neither bootstrap nor blob has them all.
    """
    try:
        bootstrap.chunk_digests(record.index)
    except FormatInvalid:
        if not record.features & BlobFeature.INLINED_CHUNK_DIGEST:
            raise
        return True
    return False


def fetch_form(record: BlobRecord, object_size: int, read: ReadBlob) -> bytes:
    """The chunk info of a blob in cache form, read from its object of *object_size* bytes.

    Raises:
        ImageInvalid: it is not where, or not what, the bootstrap says.
        rafs.RafsError: it cannot be read here.
        and what *read* raises.
    """
    where = f"blob {record.id}"
    stored_size = record.ci_compressed_size
    if record.ci_offset + stored_size + CHUNK_INFO_HEADER.size > object_size or stored_size > META_LIMIT:
        raise ImageInvalid(f"{where}: its chunk info lies outside its {object_size} bytes")
    stored = read(record.ci_offset, stored_size + CHUNK_INFO_HEADER.size)
    array = read_chunk_info(record, stored[:stored_size])
    if record.toc_size:
        entry = _entry(record, b"blob.meta", object_size, read)
        # All zeros: the writer did not know it.
        if any(entry.digest) and hashlib.sha256(array).digest() != entry.digest:
            raise ImageInvalid(f"{where}: its chunk info does not have the digest its contents promise")
    return array + bytes(-len(array) % BLOCK) + stored[stored_size:]


def fetch_digests(record: BlobRecord, object_size: int, read: ReadBlob) -> bytes:
    """The digests of all chunks of a blob, by index, read from its object of *object_size* bytes.

    Raises:
        ImageInvalid: they are not where the bootstrap says, or not what the blob's table of contents says.
        and what *read* raises.
    """
    where = f"blob {record.id}"
    # Chunk info, its header, perhaps a tar header, then the digests.
    start = record.ci_offset + record.ci_compressed_size + CHUNK_INFO_HEADER.size
    start += TAR_HEADER.size if record.features & BlobFeature.HAS_TAR_HEADER else 0
    size = DIGEST_SIZE * record.chunk_count
    if start + size > object_size:
        raise ImageInvalid(f"{where}: its chunk digests lie outside its {object_size} bytes")
    digests = read(start, size)
    if record.toc_size:
        entry = _entry(record, b"blob.digest", object_size, read)
        if hashlib.sha256(digests).digest() != entry.digest:
            raise ImageInvalid(f"{where}: its chunk digests do not have the digest its contents promise")
    return digests


def _entry(record: BlobRecord, name: bytes, object_size: int, read: ReadBlob) -> TocEntry:
    """The entry *name* of the blob's table of contents, which is checked against the bootstrap."""
    where = f"blob {record.id}"
    size = record.toc_size
    if not TAR_HEADER.size < size <= min(object_size, BLOCK) or (size - TAR_HEADER.size) % TOC_ENTRY.size:
        raise ImageInvalid(f"{where}: a table of contents of {size} bytes is none")
    contents = read(object_size - size, size)
    if hashlib.sha256(contents).digest() != record.toc_digest:
        raise ImageInvalid(f"{where}: its table of contents does not have the digest the bootstrap promises")
    for entry in TOC_ENTRY.unpack_all(contents[: -TAR_HEADER.size]):
        if entry.name.rstrip(b"\0") == name:
            return entry
    raise ImageInvalid(f"{where}: its table of contents has no {name.decode()}")
