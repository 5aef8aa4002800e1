"""The chunk table of a bootstrap, as the digests of each blob's chunks, and what to do where it has gaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from rafs.counted import counted

from .blob_record import BlobRecord
from .codes import DIGEST_SIZE
from .errors import FormatInvalid
from .records import CHUNK_ROW

_BLOB_INDEX_BYTE = 32  # of a row; indices are below 255


def digests_by_blob(table: bytes, blobs: Sequence[BlobRecord]) -> tuple[bytes | FormatInvalid, ...]:
    """Per blob the digests of all its chunks in index order, or, if rows are missing, the error that says so.

    Memory is bounded by *table*, whatever the blobs say of themselves.
    """
    blob_bytes = table[_BLOB_INDEX_BYTE :: CHUNK_ROW.size]
    complete = [blob.chunk_count <= blob_bytes.count(blob.index & 0xFF) for blob in blobs]
    counts = [blob.chunk_count if whole else 0 for blob, whole in zip(blobs, complete, strict=True)]
    digests = [bytearray(DIGEST_SIZE * count) for count in counts]
    seen = [bytearray(count) for count in counts]
    for digest, blob, _, _, _, _, _, _, index, _ in CHUNK_ROW.struct.iter_unpack(table):
        if blob < len(counts) and index < counts[blob]:
            seen[blob][index] = 1
            start = index * DIGEST_SIZE
            digests[blob][start : start + DIGEST_SIZE] = digest
    return tuple(
        bytes(joined)
        if all(there) and len(there) == record.chunk_count
        else FormatInvalid(f"blob {record.index} ({record.id}): the chunk table lacks some of its chunks")
        for record, there, joined in zip(blobs, seen, digests, strict=True)
    )


def known_digests(table: bytes, record: BlobRecord) -> tuple[bytes, bytes]:
    """(digests, unknown) of one blob: per chunk 32 bytes, zeros where *table* has none, and a byte, then 1.

    *unknown* is empty if the table has all.

    Takes 33 bytes for each chunk that *record* promises.
    """
    digests = bytearray(DIGEST_SIZE * record.chunk_count)
    unknown = bytearray(b"\1" * record.chunk_count)
    for digest, blob, _, _, _, _, _, _, index, _ in CHUNK_ROW.struct.iter_unpack(table):
        if blob == record.index and index < record.chunk_count:
            unknown[index] = 0
            digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE] = digest
    return bytes(digests), bytes(unknown) if any(unknown) else b""


def completed_digests(record: BlobRecord, known: bytes, unknown: bytes, section: bytes) -> bytes:
    """All digests of a blob: *section*, those its object has, if it agrees with what `known_digests` gave.

    The section may come unverified: a chunk is only ever taken as what its digest says, and those without a
    row belong to no file. It makes the same windows as in an image whose files use them.

    Raises:
        FormatInvalid: the section has another size, or contradicts a row of the chunk table.
    """
    if len(section) != len(known):
        raise FormatInvalid(
            f"blob {record.id}: {counted(len(section), 'byte')} of digests in the object for"
            f" {record.chunk_count} chunks"
        )
    in_table = unknown.translate(_NOT) if unknown else b"\1" * record.chunk_count
    for index in compress(range(record.chunk_count), in_table):
        start = index * DIGEST_SIZE
        if section[start : start + DIGEST_SIZE] != known[start : start + DIGEST_SIZE]:
            raise FormatInvalid(
                f"blob {record.id}: chunk {index} has another digest in the object than in the bootstrap"
            )
    return section


_NOT = bytes((1, 0)) + bytes(254)
