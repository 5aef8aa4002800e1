"""The chunk info and digests of an image's blobs: from the bootstrap layer, else out of the blobs.

What is fetched from a blob is checked against the table of contents whose digest the bootstrap has, or
against the digest of the small object it is in (references to tar layers), so the chain of digests reaches
it; where a bootstrap has neither, a wrong table can only lead to chunks that fail their own digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from launch.errors import ImageInvalid
from rafs.blob_meta import (
    MAX_CHUNK_INFO,
    BlobMeta,
    header_faults,
    parse_blob_meta,
    placed_record,
    read_cache_form,
)
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.chunk_table import completed_digests
from rafs.codes import DIGEST_SIZE, SECTION_CHUNK_DIGESTS, SECTION_CHUNK_INFO, BlobFeature
from rafs.errors import FormatInvalid, FormatUnsupported
from rafs.records import CHUNK_INFO_HEADER, TAR_HEADER

if TYPE_CHECKING:
    from rafs.toc import Section


class SizedBlobs(Protocol):
    """Where objects are read from, by id; what it gives is not verified."""

    def object_size(self, blob_id: str) -> int:
        """Bytes of the object."""

    def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
        """Exactly *size* bytes of the object from byte *offset*, in pieces."""


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
    bootstrap lacks some and the blob has them.

    Raises:
        rafs.RafsError: they contradict the bootstrap.
    """
    return tuple(
        parse_blob_meta(
            record,
            forms[record.id],
            *read_digests(bootstrap, record, forms[record.id], digests.get(record.id)),
        )
        for record in bootstrap.blobs
    )


def read_digests(
    bootstrap: Bootstrap, record: BlobRecord, form: bytes, fetched: bytes | None
) -> tuple[bytes, bytes]:
    """(digests, unknown) of a blob's chunks: the bootstrap's, else those *fetched* from the blob.

    Where nobody has them they stay unknown, as `rafs.chunk_table.known_digests` marks them. *form* is the
    chunk info in cache form.

    Raises:
        rafs.RafsError: *form* or *fetched* contradict the bootstrap.
    """
    try:
        return bootstrap.chunk_digests(record.index), b""
    except FormatInvalid:
        # First, that there is chunk info for so many chunks: memory is taken for them.
        for _, message in header_faults(placed_record(record, form), form):
            raise FormatInvalid(f"blob {record.id}: {message}") from None
    known, unknown = bootstrap.known_digests(record.index)
    if fetched is None:
        return known, unknown
    return completed_digests(record, known, unknown, fetched), b""


def lacks_digests(bootstrap: Bootstrap, record: BlobRecord) -> bool:
    """Whether digests of a blob's chunks are to be read from the blob.

    Nydus' merging drops those of chunks that no file uses any more; the blob may have all of them.
    """
    if record.digests_offset is None:
        return False
    try:
        bootstrap.chunk_digests(record.index)
    except FormatInvalid:
        return True
    return False


def fetch_form(record: BlobRecord, blobs: SizedBlobs) -> bytes:
    """The chunk info of a blob in cache form, read from the object that has it.

    Raises:
        ImageInvalid: it is not where, or not what, the bootstrap says.
        rafs.RafsError: it cannot be read here.
        and what *blobs* raises.
    """
    source = _TablesObject(record, blobs)
    record = source.placed()
    stored = source.read(record.ci_offset, record.ci_compressed_size + CHUNK_INFO_HEADER.size, "chunk info")
    form = read_cache_form(record, stored)
    section = source.section(SECTION_CHUNK_INFO)
    if section is not None:
        section.check(form[: record.ci_uncompressed_size])
    return form


def fetch_digests(record: BlobRecord, blobs: SizedBlobs) -> bytes:
    """The digests of all chunks of a blob, by index, read from the object that has them.

    Raises:
        ImageInvalid: they are not where the bootstrap says, or not what the table of contents says.
        and what *blobs* raises.
    """
    source = _TablesObject(record, blobs)
    offset = record.digests_offset
    if offset is None:
        raise ImageInvalid(f"blob {record.id}: the object has no chunk digests")
    digests = source.read(offset, DIGEST_SIZE * record.chunk_count, "chunk digests")
    section = source.section(SECTION_CHUNK_DIGESTS)
    if section is not None:
        section.check(digests)
    return digests


def _digests_of(whole: bytes, record: BlobRecord) -> Iterator[str]:
    """By what a bootstrap may name the object *whole*: `nydus-image create` leaves chunk digests out."""
    yield hashlib.sha256(whole).hexdigest()
    start = record.digests_offset
    if start is not None:
        rest = hashlib.sha256(whole[:start])
        rest.update(whole[start + DIGEST_SIZE * record.chunk_count :])
        yield rest.hexdigest()


class _TablesObject:
    """The object that has a blob's tables; read and verified whole if the bootstrap knows its digest."""

    def __init__(self, record: BlobRecord, blobs: SizedBlobs) -> None:
        self._record = record
        self._blobs = blobs
        self._id = record.meta_object
        self._size = blobs.object_size(self._id)
        self._whole: bytes | None = None
        if self._id == record.id:
            if record.features & BlobFeature.SEPARATE:
                raise ImageInvalid(
                    f"blob {record.id}: the bootstrap does not name the object that has its chunk info"
                )
            return
        self._whole = self.read(0, self._size, "chunk info")
        if self._id not in _digests_of(self._whole, record):
            raise ImageInvalid(f"object {self._id}: the {self._size} bytes have another sha256")

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Exactly these bytes of the object; *what* names them in errors."""
        if offset + size > self._size or size > MAX_CHUNK_INFO:
            raise ImageInvalid(
                f"blob {self._record.id}: its {what} of {size} bytes lies outside its {self._size} bytes"
            )
        if self._whole is not None:
            return self._whole[offset : offset + size]
        return b"".join(self._blobs.read_at(self._id, offset, size))

    def placed(self) -> BlobRecord:
        """The record, with what the object's end says of the chunk info if it says nothing true of that."""
        if not self._record.is_unplaced:
            return self._record
        size = CHUNK_INFO_HEADER.size
        start = max(0, self._size - TAR_HEADER.size - size)
        self._record = placed_record(self._record, self.read(start, size, "chunk info header"))
        return self._record

    def section(self, name: bytes) -> Section | None:
        """What the table of contents says of a section; None if the bootstrap has no digest of the table, or
        of more than the table."""
        if not self._record.toc_size or self._whole is not None:
            return None
        # Here: images of ours bring their tables in the bootstrap layer, and a mount waits for every module.
        from rafs.toc import trusted_toc

        size = self._record.toc_size
        try:
            contents = trusted_toc(
                self.read(self._size - size, size, "table of contents"), self._record.toc_digest
            )
            return contents[name]
        except FormatInvalid as error:
            raise ImageInvalid(f"blob {self._record.id}: {error}") from error
        except KeyError as error:
            raise ImageInvalid(
                f"blob {self._record.id}: its table of contents has no {name.decode()}"
            ) from error
