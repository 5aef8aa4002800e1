"""The chunk table of a bootstrap, as the digests of each blob's chunks."""

from __future__ import annotations

from collections.abc import Sequence

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
