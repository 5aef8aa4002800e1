"""CRC-32C as the world computes it, as Nydus' tools wrote it, and compared by check."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.bootstrap import Bootstrap
from rafs.check import check_chunks, check_content
from rafs.codes import RowFlag
from rafs.crc32c import crc32c
from rafs.units import decode_unit
from tests.support.blob_metas import plain_blob
from tests.support.bootstrap_edits import Editor
from tests.support.nydus_vectors import one_vector

CONTENT = [b"first " * 1000, b"x"]


@pytest.mark.parametrize(
    ("content", "crc"),
    [(b"", 0), (b"a", 0xC1D04330), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA)],
)
def test_known_values(content: bytes, crc: int) -> None:
    assert crc32c(content) == crc


@given(st.binary(max_size=300))
def test_bit_by_bit_gives_the_same(content: bytes) -> None:
    crc = 0xFFFF_FFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(content) == crc ^ 0xFFFF_FFFF


@pytest.mark.parametrize("name", ["tar-ref", "dir-encrypt"])
def test_chunks_of_nydus_have_the_checksum_that_is_stored(name: str) -> None:
    image = one_vector(name)
    bootstrap = Bootstrap(image.bootstrap)
    (record,) = bootstrap.blobs
    meta, stored = image.meta(bootstrap, record), image.blob_object(record)
    assert meta.crc32c(0)
    for index in range(meta.unit_count):
        unit = meta.unit(index)
        content = decode_unit(meta, unit, stored[unit.compressed_offset :][: unit.compressed_size])
        assert check_content(meta, unit.first_chunk, content) == []


def test_a_checksum_that_is_not_the_chunks_is_found() -> None:
    blob = plain_blob(CONTENT, version=2, checksum=lambda content: crc32c(content) ^ len(content))
    meta = blob.meta
    contents = [decode_unit(meta, meta.unit(i), blob.stored[i]) for i in range(2)]
    assert [[finding.rule for finding in check_content(meta, i, contents[i])] for i in range(2)] == [
        ["chunk-crc"],
        ["chunk-crc"],
    ]
    assert check_content(plain_blob(CONTENT).meta, 0, contents[0]) == []


def test_a_row_with_another_checksum_than_the_chunk_info_is_found() -> None:
    image = one_vector("tar-ref")
    bootstrap = Bootstrap(image.bootstrap)
    metas = [image.meta(bootstrap, record) for record in bootstrap.blobs]
    assert next(bootstrap.chunk_rows()).flags & RowFlag.HAS_CRC
    editor = Editor(image.bootstrap)
    editor.row(0, crc32c=1)
    assert [finding.rule for finding in check_chunks(bytes(editor.raw), metas)] == ["row-crc"]
