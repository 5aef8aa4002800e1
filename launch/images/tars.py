"""Images over plain tars ("tarfs"): every tar is read once, whole, and chunks are made up for its files.

Apart from `chunk_tables`, because such images are rare and a mount waits for every module.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.images.chunk_tables import SizedBlobs
from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.tarfs import TarPiece, tar_blob, tar_pieces, with_chunks


def read_tars(bootstrap: Bootstrap, blobs: SizedBlobs) -> tuple[Bootstrap, tuple[BlobMeta, ...]]:
    """(*bootstrap* with chunks like any other, those of its blobs), after reading all tars.

    Raises:
        rafs.FormatInvalid: one is not the tar that the bootstrap names, or the bootstrap is broken.
        and what *blobs* raises.
    """
    wanted = tar_pieces(bootstrap)
    metas = tuple(read_tar(record, blobs, wanted[record.index]) for record in bootstrap.blobs)
    return with_chunks(bootstrap, metas), metas


def read_tar(record: BlobRecord, blobs: SizedBlobs, pieces: Sequence[TarPiece]) -> BlobMeta:
    """The chunks of one tar, which are *pieces* of it, after reading it.

    Raises:
        rafs.FormatInvalid: it is not the tar that *record* names, or has not all *pieces*.
        and what *blobs* raises.
    """
    return tar_blob(record, blobs.read_at(record.id, 0, blobs.object_size(record.id)), pieces)
