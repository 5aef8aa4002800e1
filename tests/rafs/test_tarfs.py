"""A plain tar becomes a blob with chunks, and only after it was found to be the one that is named."""

from __future__ import annotations

import hashlib
import random
import stat
from dataclasses import replace

import pytest
from blake3 import blake3

from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.codes import BlobFeature, Digester
from rafs.errors import FormatInvalid, FormatUnsupported
from rafs.tarfs import TarPiece, tar_blob, tar_pieces, with_chunks
from rafs.units import decode_unit
from tests.support.blob_metas import plain_blob
from tests.support.nydus_vectors import Image, one_vector

TAR = random.Random(1).randbytes((2 << 20) + 512)
PIECES = [
    TarPiece(512, 100),
    TarPiece(1536, 1 << 20),
    TarPiece(1536 + (1 << 20), 5000),
    TarPiece((2 << 20) - 1024, 1536),
]


def _record(tar: bytes) -> BlobRecord:
    record = plain_blob([b"x"]).record
    return replace(
        record,
        id=hashlib.sha256(tar).hexdigest(),
        features=BlobFeature.TARFS,
        digester=Digester.SHA256,
        uncompressed_size=len(tar),
    )


@pytest.mark.parametrize("step", [512, 100_000, 1 << 22])
def test_every_piece_is_a_chunk_and_every_chunk_begins_with_a_page(step: int) -> None:
    content = [TAR[at : at + step] for at in range(0, len(TAR), step)]
    meta = tar_blob(_record(TAR), content, PIECES)
    offset = 0
    for number, (start, size) in enumerate(PIECES):
        chunk, unit = meta.chunk(number), meta.unit(number)
        assert (chunk.offset, chunk.size) == (offset, size)
        stored = TAR[unit.compressed_offset : unit.compressed_offset + unit.compressed_size]
        assert decode_unit(meta, unit, stored) == stored == TAR[start : start + size]
        assert blake3(stored).digest() == chunk.digest
        offset += size + -size % 4096
    assert (meta.chunk_count, meta.uncompressed_size) == (len(PIECES), offset)


def test_a_tar_that_is_named_by_no_digest_is_not_read() -> None:
    with pytest.raises(FormatUnsupported, match=r"tarfs without a digest .* blob some\.tar "):
        tar_blob(replace(_record(TAR), id="some.tar"), iter(()), PIECES)


@pytest.mark.parametrize("tar", [TAR[:-1], TAR + b"\0", b"\1" + TAR[1:], b""])
def test_another_tar_is_refused(tar: bytes) -> None:
    with pytest.raises(FormatInvalid, match=f"the tar has {len(tar)} bytes"):
        tar_blob(_record(TAR), [tar], PIECES)


def test_file_bytes_beyond_the_tar_are_refused() -> None:
    beyond = [*PIECES, TarPiece(len(TAR) - 511, 512)]
    with pytest.raises(FormatInvalid, match=f"beyond the {len(TAR)} bytes"):
        tar_blob(_record(TAR), [TAR], beyond)


def test_a_tar_without_file_bytes_has_one_chunk() -> None:
    meta = tar_blob(_record(TAR), [TAR], [])
    assert (meta.chunk_count, meta.chunk(0).size) == (1, 512)


def test_an_empty_tar_has_nothing_to_read() -> None:
    with pytest.raises(FormatInvalid, match="beyond the 0 bytes"):
        tar_blob(_record(b""), [], [])


@pytest.fixture(scope="module")
def image() -> Image:
    return one_vector("tarfs")


def test_every_file_of_a_tarfs_image_is_found_in_its_chunks(image: Image) -> None:
    stored = Bootstrap(image.bootstrap)
    metas = [image.meta(stored, record) for record in stored.blobs]
    made = with_chunks(stored, metas)
    tars = [image.blob_object(record) for record in stored.blobs]
    compared = 0
    for (path, inode), (same, before) in zip(made.walk(), stored.walk(), strict=True):
        assert (path, inode) == (same, before)
        if not stat.S_ISREG(inode.mode):
            continue
        for extent, was in zip(made.extents(inode), stored.extents(before), strict=True):
            meta = metas[extent.blob_index]
            chunk, unit = meta.chunk(extent.chunk_index), meta.unit(extent.chunk_index)
            assert (chunk.offset, chunk.size) == (extent.blob_offset, extent.size)
            assert unit.compressed_offset == was.blob_offset
            compared += 1
            content = tars[was.blob_index][was.blob_offset : was.blob_offset + was.size]
            assert blake3(content).digest() == chunk.digest
    assert compared > 10


def test_files_that_overlap_in_the_tar_are_refused(image: Image) -> None:
    bootstrap = Bootstrap(image.bootstrap)
    files = [inode for _, inode in bootstrap.walk() if stat.S_ISREG(inode.mode)]
    *_, second, largest = sorted(files, key=lambda one: one.size)
    raw = bytearray(image.bootstrap)
    (there, *_) = bootstrap.extents(largest)
    at = bootstrap.chunk_entries_at(second)
    raw[at + 4 : at + 8] = (there.blob_offset // 512 + 1).to_bytes(4, "little")
    with pytest.raises(FormatInvalid, match="overlap those before"):
        tar_pieces(Bootstrap(bytes(raw)))


def test_more_pieces_than_a_blob_can_have_chunks_are_refused(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rafs.tarfs.MAX_CHUNKS", 1)
    with pytest.raises(FormatInvalid, match="expected 1 at most"):
        tar_pieces(Bootstrap(image.bootstrap))
