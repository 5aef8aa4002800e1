"""A plain tar as the blob of a "tarfs" image: chunks made up for it, so that it is read like any other blob.

Such an image addresses the tar in blocks of 512 bytes and has neither chunk info nor digests; all that is
known of the tar is the SHA-256 it is named by. So it is read once, completely, before its first byte is
given: not a way to start early, but no byte is given that was not verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from .blob_meta import BlobMeta
from .blob_record import BlobRecord
from .chunk_info import ChunkInfo, encode_v1
from .codes import BLOCK, BlobFeature, Compressor, Digester
from .digests import digest_of
from .errors import FormatInvalid
from .records import CHUNK_INFO_V1

_PIECE: Final = 1 << 20  # bytes of one made-up chunk


def tar_blob(record: BlobRecord, pieces: Iterable[bytes]) -> BlobMeta:
    """The tar that comes in *pieces*, as raw chunks of 1 MiB; byte n of the tar is byte n of the blob.

    Raises:
        FormatInvalid: it is not the tar that *record* names.
        and what iterating *pieces* raises.
    """
    whole, digest = hashlib.sha256(), digest_of(Digester.BLAKE3)
    pending = bytearray()
    digests: list[bytes] = []
    size = 0
    for piece in pieces:
        whole.update(piece)
        size += len(piece)
        pending += piece
        while len(pending) >= _PIECE:
            digests.append(digest(pending[:_PIECE]))
            del pending[:_PIECE]
    if pending:
        digests.append(digest(pending))
    if whole.hexdigest() != record.id or not size:
        raise FormatInvalid(f"blob {record.id}: the tar has {size} bytes with sha256 {whole.hexdigest()}")
    entries = [
        ChunkInfo(start, min(_PIECE, size - start), start, min(_PIECE, size - start))
        for start in range(0, size, _PIECE)
    ]
    array = b"".join(CHUNK_INFO_V1.pack(encode_v1(entry)) for entry in entries)
    plain = replace(
        record,
        chunk_size=_PIECE,
        chunk_count=len(entries),
        compressor=Compressor.NONE,
        digester=Digester.BLAKE3,
        features=BlobFeature.ALIGNED | BlobFeature.CAP_TAR_TOC,
        compressed_size=size,
        uncompressed_size=size + -size % BLOCK,
        ci_compressor=Compressor.NONE,
        ci_offset=size,
        ci_compressed_size=len(array),
        ci_uncompressed_size=len(array),
    )
    return BlobMeta(plain, array, b"".join(digests))
