"""The chunk table of a bootstrap, as the digests of each blob's chunks, and what to do where it has gaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

from .blob_record import BlobRecord
from .codes import DIGEST_SIZE
from .errors import FormatInvalid
from .records import CHUNK_ROW

_BLOB_INDEX_BYTE = 32  # of a row; indices are below 255


class KnownDigests(NamedTuple):
    """The digests of a blob's chunks, 32 bytes each by index, as far as they are known."""

    digests: bytes  # zeros for unknown ones
    unknown: bytes  # 1 for each unknown one, else 0; empty: all are known


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


def known_digests(table: bytes, record: BlobRecord) -> KnownDigests:
    """What *table* has of one blob. Takes 33 bytes for each chunk that *record* promises."""
    digests = bytearray(DIGEST_SIZE * record.chunk_count)
    unknown = bytearray(b"\1" * record.chunk_count)
    for digest, blob, _, _, _, _, _, _, index, _ in CHUNK_ROW.struct.iter_unpack(table):
        if blob == record.index and index < record.chunk_count:
            unknown[index] = 0
            digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE] = digest
    return KnownDigests(bytes(digests), bytes(unknown) if any(unknown) else b"")


def completed_digests(record: BlobRecord, known: KnownDigests, section: bytes) -> bytes:
    """All digests of a blob: *section*, the digests its own object has, where it agrees with what is *known*.

    The section may come unverified: a chunk is only ever taken as what its digest says, and those without a
    row belong to no file. It makes the same windows as in an image whose files use them.

    Raises:
        FormatInvalid: the section has another size, or contradicts a row of the chunk table.
    """
    if len(section) != len(known.digests):
        raise FormatInvalid(
            f"blob {record.id}: {len(section)} bytes of digests in the object for {record.chunk_count} chunks"
        )
    in_table = known.unknown.translate(_NOT) if known.unknown else b"\1" * record.chunk_count
    for index in compress(range(record.chunk_count), in_table):
        start = index * DIGEST_SIZE
        if section[start : start + DIGEST_SIZE] != known.digests[start : start + DIGEST_SIZE]:
            raise FormatInvalid(
                f"blob {record.id}: chunk {index} has another digest in the object than in the bootstrap"
            )
    return section


_NOT = bytes((1, 0)) + bytes(254)
