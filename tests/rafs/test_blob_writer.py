"""Blob objects as written: read back here from the end, as other readers do, without our own reader."""

from __future__ import annotations

import hashlib
import random
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rafs.blob_writer import BlobWriter, PackedUnit, pack_unit, tar_header
from rafs.digests import chunk_digest
from rafs.errors import ImageTooLarge
from rafs.finished_blob import FinishedBlob
from tests.support.fixtures import fixture

CHUNK_SIZE = 64 << 10
FEATURES = 0x7000_00A5
TEXT = b"the same words again and again " * 100
NOISE = random.Random(5).randbytes(5000)

units_of_chunks = st.lists(
    st.lists(
        st.one_of(st.binary(min_size=1, max_size=5000), st.just(TEXT), st.just(NOISE)), min_size=1, max_size=5
    ),
    max_size=5,
)


def written(units: list[list[bytes]]) -> tuple[bytes, FinishedBlob]:
    writer = BlobWriter(chunk_size=CHUNK_SIZE)
    body = b"".join(writer.add_unit(pack_unit(chunks)) for chunks in units)
    tail, blob = writer.finish()
    return body + tail, blob


def sections(raw: bytes) -> dict[str, tuple[int, bytes, int, bytes]]:
    """(flags, stored bytes, size, digest) by name, from the TOC at the end of the object."""
    toc_header = tarfile.TarInfo.frombuf(raw[-512:], "utf-8", "strict")
    assert (toc_header.name, toc_header.type) == ("rafs.blob.toc", tarfile.REGTYPE)
    found = {}
    for flags, name, digest, offset, stored, size in struct.iter_unpack(
        "<I4x16s32sQQQ48x", raw[-512 - toc_header.size : -512]
    ):
        found[name.rstrip(b"\0").decode()] = (flags, raw[offset : offset + stored], size, digest)
    return found


def uncompressed(flags: int, stored: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(stored) if flags == 2 else stored


@given(units_of_chunks.filter(bool))
def test_every_chunk_comes_back_out_of_the_object(units: list[list[bytes]]) -> None:
    raw, blob = written(units)
    found = sections(raw)
    chunk_info = uncompressed(found["blob.meta"][0], found["blob.meta"][1])
    chunks = [chunk for unit in units for chunk in unit]
    contexts = chunk_info[24 * len(chunks) :]
    address = 0
    for index, chunk in enumerate(chunks):
        u0, u1, u2 = struct.unpack_from("<QQQ", chunk_info, 24 * index)
        assert u0 >> 56 == 0x5
        assert u1 >> 40 == 0
        assert (u0 & 0xFFFF_FFFF) * 4096 == address == blob.offset(index)
        assert (u0 >> 32 & 0xFF_FFFF) + 1 == len(chunk) == blob.sizes[index]
        stored_size, size = struct.unpack_from("<II", contexts, 40 * (u2 >> 32))
        stored = raw[u1 : u1 + stored_size]
        unit = stored if stored_size == size else zstandard.ZstdDecompressor().decompress(stored)
        assert len(unit) == size
        assert unit[u2 & 0xFFFF_FFFF :][: len(chunk)] == chunk
        assert blob.digest(index) == chunk_digest(chunk)
        address += (len(chunk) + 4095) // 4096 * 4096
    assert blob.uncompressed_size == address
    assert len(contexts) == 40 * len(units)


@given(units_of_chunks)
def test_the_toc_describes_each_section_and_the_id_the_whole_object(units: list[list[bytes]]) -> None:
    raw, blob = written(units)
    assert (hashlib.sha256(raw).hexdigest(), len(raw)) == (blob.id, blob.object_size)
    assert hashlib.sha256(raw[-blob.toc_size :]).digest() == blob.toc_digest
    found = sections(raw)
    assert list(found) == ["image.blob", "blob.meta", "blob.meta.header", "blob.digest"][: 4 if units else 1]
    flags, stored, size, digest = found.pop("image.blob")
    assert (flags, size) == (1, blob.uncompressed_size)
    assert hashlib.sha256(raw[: len(stored) + 512]).digest() == digest
    for flags, stored, size, digest in found.values():
        content = uncompressed(flags, stored)
        assert len(content) == size
        assert hashlib.sha256(content).digest() == digest


def test_sections_follow_each_other_with_a_tar_header_behind_each() -> None:
    raw, blob = written([[TEXT] * 200, [NOISE]])
    found = sections(raw)
    data, array, header, digests = (stored for _, stored, _, _ in found.values())
    assert found["blob.meta"][0] == 2
    expected = data + tar_header(b"image.blob", len(data))
    assert len(expected) == blob.ci_offset
    expected += array + header + tar_header(b"blob.meta", len(array) + 4096)
    expected += digests + tar_header(b"blob.digest", len(digests))
    assert raw[: -blob.toc_size] == expected
    assert digests == blob.digests


def test_the_cache_form_is_the_array_padded_and_then_the_header_of_the_object() -> None:
    raw, blob = written([[TEXT, NOISE], [NOISE[:10]]])
    flags, stored, size, _ = sections(raw)["blob.meta"]
    header = sections(raw)["blob.meta.header"][1]
    cache = blob.cache_form()
    assert len(cache) == 2 * 4096
    assert cache[:size] == uncompressed(flags, stored)
    assert cache[size:4096] == bytes(4096 - size)
    assert cache[4096:] == header
    assert struct.unpack_from("<4I5QI", header) == (
        0xB10BB10B, FEATURES, 3, 3, blob.ci_offset, len(stored), size, 3 * 24, 2 * 40, 2
    )  # fmt: skip
    assert header[60:4092] == bytes(4032)
    assert header[4092:] == header[:4]


def test_the_blob_table_row_repeats_the_header() -> None:
    raw, blob = written([[TEXT, NOISE], [NOISE[:10]]])
    row = blob.record(7).entry()
    assert row.blob_id.decode() == hashlib.sha256(raw).hexdigest()
    assert (row.blob_index, row.chunk_size, row.chunk_count) == (7, CHUNK_SIZE, 3)
    assert (row.compressor, row.digester, row.features, row.cipher) == (3, 0, FEATURES, 0)
    assert (row.compressed_size, row.uncompressed_size) == (len(raw), 4096 + 8192 + 4096)
    assert (row.ci_compressor, row.ci_offset) == (3, blob.ci_offset)
    assert row.ci_uncompressed_size == 3 * 24 + 2 * 40
    assert (row.toc_size, row.toc_digest) == (1024, hashlib.sha256(raw[-1024:]).digest())


def test_a_unit_that_compression_would_enlarge_is_stored_raw() -> None:
    raw, _ = written([[NOISE, NOISE[:3]]])
    assert raw.startswith(NOISE + NOISE[:3] + b"image.blob")


def test_a_compressed_unit_is_one_frame_with_size_and_checksum() -> None:
    unit = pack_unit([TEXT, TEXT])
    frame = zstandard.get_frame_parameters(unit.payload)
    assert (frame.content_size, frame.has_checksum) == (2 * len(TEXT), True)
    assert unit.sizes == (len(TEXT), len(TEXT))
    assert unit.digests == chunk_digest(TEXT) * 2


def test_given_digests_are_stored_as_they_are() -> None:
    assert pack_unit([TEXT], [b"d" * 32]).digests == b"d" * 32


def test_a_blob_without_chunks_has_a_toc_but_no_tables() -> None:
    raw, blob = written([])
    assert blob.chunk_count == blob.uncompressed_size == 0
    assert raw[:512] == tar_header(b"image.blob", 0)
    assert len(raw) == 512 + 128 + 512


def test_units_packed_by_many_threads_give_the_same_object() -> None:
    rng = random.Random(7)
    units = [[rng.randbytes(2000) * 20 for _ in range(4)] for _ in range(24)]
    writer = BlobWriter(chunk_size=CHUNK_SIZE)
    with ThreadPoolExecutor(8) as pool:
        body = b"".join(map(writer.add_unit, pool.map(pack_unit, units)))
    assert body + writer.finish()[0] == written(units)[0]


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        ("MAX_CHUNKS", "chunks"),
        ("MAX_COMPRESSED_SIZE", "compressed"),
        ("MAX_UNCOMPRESSED_SIZE", "bytes of chunks"),
    ],
)
def test_a_blob_beyond_a_limit_of_the_format_is_refused(
    limit: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = PackedUnit(NOISE[:2], (1, 1), bytes(64))
    fits = {"MAX_CHUNKS": 4, "MAX_COMPRESSED_SIZE": 5, "MAX_UNCOMPRESSED_SIZE": 4 * 4096}[limit]
    monkeypatch.setattr(f"rafs.blob_writer.{limit}", fits)
    writer = BlobWriter(chunk_size=CHUNK_SIZE)
    writer.add_unit(unit)
    writer.add_unit(unit)
    with pytest.raises(ImageTooLarge, match=what):
        writer.add_unit(unit)
    assert writer.chunk_count == 4


def test_tar_headers_are_those_of_the_reference_builder() -> None:
    blob = next(fixture("nydus/v6-2.2").glob("be7d77ee*5fef")).read_bytes()
    assert blob[0x1E7A:0x207A] == tar_header(b"image.blob", 0x1E7A)
    assert blob[0x309A:0x329A] == tar_header(b"blob.meta", 0x1020)
    assert blob[0x32DA:0x34DA] == tar_header(b"blob.digest", 64)
    assert blob[0x36DA:] == tar_header(b"rafs.blob.toc", 512)


@pytest.mark.parametrize("size", [0, 1, (1 << 33) - 1, 1 << 33, (1 << 40) - 1])
def test_tar_headers_of_any_size_are_understood_by_tarfile(size: int) -> None:
    header = tarfile.TarInfo.frombuf(tar_header(b"image.blob", size), "utf-8", "strict")
    assert (header.name, header.size) == ("image.blob", size)


def test_what_a_thread_packed_before_leaves_no_trace_in_a_unit() -> None:
    for level in (3, 9, 3, 9):
        fresh = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(TEXT + NOISE)
        assert pack_unit([TEXT, NOISE], level=level).payload == fresh
        pack_unit([NOISE, NOISE], level=level)
