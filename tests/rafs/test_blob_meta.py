"""Chunk info is taken only if record, header, entries, contexts and digests fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from rafs.blob_meta import BlobMeta, Unit, parse_blob_meta, read_chunk_info
from rafs.check import check_blob_meta
from rafs.chunk_columns import MAX_UNIT_SPAN, read_v1
from rafs.chunk_info import ChunkInfo, decode_v2, encode_v1, encode_v2
from rafs.codes import BlobFeature, Cipher, Compressor
from rafs.errors import ChunkInvalid, FormatInvalid, FormatUnsupported, RafsError
from rafs.records import (
    BATCH_CONTEXT,
    CHUNK_INFO_HEADER,
    CHUNK_INFO_V1,
    CHUNK_INFO_V2,
    BatchContext,
    ChunkInfoV1,
    ChunkInfoV2,
)
from rafs.units import UnitDecoder, decode_unit
from rafs.windows import cut_windows
from tests.support.blob_metas import MadeBlob, batch_blob, compress, plain_blob

CONTENT = [b"first " * 1000, b"second" * 900, b"third", bytes(range(256)) * 40]


def _batch() -> MadeBlob:
    return batch_blob([CONTENT[:2], CONTENT[2:]])


def test_units_and_chunks_of_a_batch_blob() -> None:
    blob = _batch()
    meta = blob.meta
    first, second = (len(stored) for stored in blob.stored)
    assert [meta.unit(0), meta.unit(1)] == [
        Unit(0, first, 11_400, False, 0, 2),
        Unit(first, second, 10_245, False, 2, 2),
    ]
    assert [meta.chunk(i)[2:] for i in range(4)] == [
        (0, 6000, 0),
        (8192, 5400, 6000),
        (16384, 5, 0),
        (20480, 10240, 5),
    ]
    assert [meta.unit_of_chunk(i) for i in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("version", [1, 2])
def test_a_plain_chunk_is_a_unit_of_one(version: int) -> None:
    blob = plain_blob([*CONTENT, b"\x00\xff"], version=version)
    meta = blob.meta
    assert meta.unit_count == meta.chunk_count == 5
    assert [meta.unit(i).raw for i in range(5)] == [False, False, True, False, True]
    assert [meta.unit(i).compressed_size for i in range(5)] == [len(stored) for stored in blob.stored]
    assert {meta.chunk(i).unit_offset for i in range(5)} == {0}


@pytest.mark.parametrize("index", [-1, 4, 1 << 40])
def test_an_index_that_does_not_exist_is_a_typed_error(index: int) -> None:
    meta = plain_blob(CONTENT).meta
    for ask in (meta.unit, meta.chunk, meta.unit_of_chunk):
        with pytest.raises(FormatInvalid, match="there is no"):
            ask(index)


def test_the_cache_form_gives_the_same() -> None:
    for blob in (_batch(), plain_blob(CONTENT), plain_blob(CONTENT, version=2)):
        meta = parse_blob_meta(blob.record, blob.cache_form, blob.digests)
        assert [meta.chunk(i) for i in range(4)] == [blob.meta.chunk(i) for i in range(4)]
        assert check_blob_meta(blob.record, blob.cache_form, blob.digests) == []


@pytest.mark.parametrize("field", ["magic", "ci_entries", "ci_compressor", "ci_offset", "ci_compressed_size"])
def test_a_header_that_contradicts_the_blob_table_is_refused(field: str) -> None:
    _refuse_header(field)


@pytest.mark.parametrize(
    "field", ["magic2", "ci_uncompressed_size", "context_offset", "context_size", "context_count"]
)
def test_a_header_that_contradicts_the_array_is_refused(field: str) -> None:
    _refuse_header(field)


def _refuse_header(field: str) -> None:
    blob = _batch()
    header = CHUNK_INFO_HEADER.unpack(blob.cache_form, len(blob.cache_form) - 4096)
    changed = header._replace(**{field: getattr(header, field) + 1})
    form = blob.cache_form[:-4096] + CHUNK_INFO_HEADER.pack(changed)
    with pytest.raises(FormatInvalid, match="chunk info header"):
        parse_blob_meta(blob.record, form, blob.digests)
    assert [finding.rule for finding in check_blob_meta(blob.record, form, blob.digests)] == ["meta-header"]


@pytest.mark.parametrize("change", [lambda form: form[:-1], lambda form: form + b"\0", lambda form: b""])
def test_a_chunk_info_file_of_another_size_is_refused(change: Callable[[bytes], bytes]) -> None:
    blob = _batch()
    with pytest.raises(FormatInvalid, match="chunk info file has"):
        parse_blob_meta(blob.record, change(blob.cache_form), blob.digests)


def test_padding_that_is_not_zero_is_found() -> None:
    blob = _batch()
    form = bytearray(blob.cache_form)
    form[len(blob.array)] = 1
    assert [finding.rule for finding in check_blob_meta(blob.record, bytes(form), blob.digests)] == [
        "meta-padding"
    ]


def _entry(blob: MadeBlob, index: int, **changes: Any) -> MadeBlob:
    """The blob with fields of one V2 entry changed."""
    at = index * CHUNK_INFO_V2.size
    entry = decode_v2(CHUNK_INFO_V2.unpack(blob.array, at))._replace(**changes)
    packed = CHUNK_INFO_V2.pack(encode_v2(entry))
    return blob.with_array(blob.array[:at] + packed + blob.array[at + len(packed) :])


def _context(blob: MadeBlob, index: int, **changes: Any) -> MadeBlob:
    at = CHUNK_INFO_V2.size * blob.record.chunk_count + index * BATCH_CONTEXT.size
    packed = BATCH_CONTEXT.pack(BATCH_CONTEXT.unpack(blob.array, at)._replace(**changes))
    return blob.with_array(blob.array[:at] + packed + blob.array[at + len(packed) :])


BROKEN_BATCHES: dict[str, tuple[MadeBlob, str]] = {
    "chunk not dense": (_entry(_batch(), 1, offset=4096), "starts at block 1, expected 2"),
    "first chunk not at 0": (_entry(_batch(), 0, offset=4096), "chunk 0: starts at block 1"),
    "chunk size": (_entry(_batch(), 0, size=5999), "chunk 1"),
    "member has a stored size": (_entry(_batch(), 1, compressed_size=1), "unit 0"),
    "member elsewhere": (_entry(_batch(), 1, compressed_offset=1), "unit 0"),
    "member offset": (_entry(_batch(), 1, context_offset=5999), "at 5999 of unit 0"),
    "first member not at 0": (_entry(_batch(), 0, context_offset=1), "at 1 of unit 0"),
    "context skipped": (_entry(_batch(), 2, context=2), "is in unit 2, expected 1"),
    "context huge": (_entry(_batch(), 0, context=(1 << 32) - 1), "expected 0 of 2"),
    "unit order": (
        _entry(_entry(_batch(), 2, compressed_offset=0), 3, compressed_offset=0),
        "unit 1 starts at 0",
    ),
    "zran flag": (_entry(_batch(), 0, flags=2), "flags 0x2"),
    "encrypted flag": (_entry(_batch(), 0, flags=12), "flags 0xc"),
    "unknown flag": (_entry(_batch(), 0, flags=0x84), "flags 0x84"),
    "unit larger than its members": (_context(_batch(), 0, size=11_401), "has 11400 bytes of 11401"),
    "unit smaller than its members": (_context(_batch(), 0, size=11_399), "unit 0, which has 6000 of 11399"),
    "last unit larger": (_context(_batch(), 1, size=10_246), "within it"),
    "stored size 0": (_context(_batch(), 0, compressed_size=0), "0 stored bytes"),
    "stored size huge": (_context(_batch(), 1, compressed_size=(1 << 32) - 1), "stored bytes"),
    "units overlap": (_context(_batch(), 0, compressed_size=11_000), "the one before ends at 11000"),
    "unit beyond the object": (_context(_batch(), 1, compressed_size=10_000), "its object's chunks at"),
}


@pytest.mark.parametrize(("blob", "message"), BROKEN_BATCHES.values(), ids=BROKEN_BATCHES)
def test_a_broken_array_is_refused(blob: MadeBlob, message: str) -> None:
    with pytest.raises(FormatInvalid, match=message):
        _ = blob.meta
    assert [finding.rule for finding in check_blob_meta(blob.record, blob.cache_form, blob.digests)] == [
        "meta-array"
    ]


def test_a_unit_that_nobody_uses_is_refused() -> None:
    blob = _batch()
    array = blob.array + BATCH_CONTEXT.pack(BatchContext(compressed_size=1, size=1))
    record = replace(blob.record, ci_uncompressed_size=len(array), ci_compressed_size=len(array))
    with pytest.raises(FormatInvalid, match="unit 1 of 3"):
        BlobMeta(record, array, blob.digests)
    ragged = array[:-1]
    with pytest.raises(FormatInvalid, match="multiple of 40"):
        BlobMeta(replace(record, ci_uncompressed_size=len(ragged)), ragged, blob.digests)


def test_version_1_chunks_must_be_dense() -> None:
    blob = plain_blob(CONTENT)
    u0, u1 = CHUNK_INFO_V1.unpack(blob.array, 16)
    entry = CHUNK_INFO_V1.pack(ChunkInfoV1(u0 - 4096, u1))  # the offset stands in the word as it is
    with pytest.raises(FormatInvalid, match="chunk 1: starts at 4096, expected 8192"):
        _ = blob.with_array(blob.array[:16] + entry + blob.array[32:]).meta


def _with_gap(blob: MadeBlob, gap: int) -> MadeBlob:
    """Chunks from the third one on lie *gap* bytes further."""
    width = blob.record.entry_size

    def moved(index: int) -> bytes:
        by = gap if index > 1 else 0
        if width == CHUNK_INFO_V1.size:
            u0, u1 = CHUNK_INFO_V1.unpack(blob.array, width * index)
            return CHUNK_INFO_V1.pack(ChunkInfoV1(u0 + by, u1))
        new = decode_v2(CHUNK_INFO_V2.unpack(blob.array, width * index))
        return CHUNK_INFO_V2.pack(encode_v2(new._replace(offset=new.offset + by)))

    array = b"".join(map(moved, range(4)))
    record = replace(blob.record, uncompressed_size=blob.record.uncompressed_size + gap)
    return replace(blob, record=record, array=array + blob.array[4 * width :])


every_kind = pytest.mark.parametrize("blob", [_batch(), plain_blob(CONTENT), plain_blob(CONTENT, version=2)])


@every_kind
def test_a_gap_between_chunks_is_nobodys(blob: MadeBlob) -> None:
    meta = _with_gap(blob, 8192).meta
    assert [meta.chunk(i).offset for i in range(4)] == [0, 8192, 16384 + 8192, 20480 + 8192]
    assert meta.uncompressed_size == blob.meta.uncompressed_size + 8192
    (window,), (dense,) = cut_windows(meta), cut_windows(blob.meta)
    assert window.length == dense.length + 8192
    # Another place in the file is another window, although chunks and sizes are the same.
    assert window.id != dense.id


@every_kind
def test_a_gap_larger_than_a_chunk_is_refused(blob: MadeBlob) -> None:
    with pytest.raises(FormatInvalid, match="chunk 2: starts at"):
        _ = _with_gap(blob, blob.record.chunk_size + 4096).meta


def test_a_unit_spread_too_widely_is_refused() -> None:
    gap = 1 << 20
    count = (MAX_UNIT_SPAN // gap) + 1
    blob = batch_blob([[b"x"] * count])
    entries = [
        decode_v2(CHUNK_INFO_V2.unpack(blob.array, 24 * i))._replace(offset=i * gap) for i in range(count)
    ]
    array = b"".join(CHUNK_INFO_V2.pack(encode_v2(entry)) for entry in entries) + blob.array[24 * count :]
    record = replace(blob.record, uncompressed_size=(count - 1) * gap + 4096)
    with pytest.raises(FormatUnsupported, match="spread over"):
        _ = replace(blob, record=record, array=array).meta


def test_what_follows_the_last_chunk_is_not_read() -> None:
    blob = plain_blob(CONTENT)
    size = blob.record.uncompressed_size
    assert (
        replace(blob, record=replace(blob.record, uncompressed_size=size + 4096)).meta.uncompressed_size
        == size
    )


HOLES = b"\0\1\0\0"


@every_kind
def test_a_chunk_without_a_digest_is_zeros_whatever_is_stored(blob: MadeBlob) -> None:
    digests = blob.digests[:32] + bytes(32) + blob.digests[64:]
    meta = BlobMeta(blob.record, blob.array, digests, HOLES)
    wanted = [CONTENT[0], bytes(len(CONTENT[1])), *CONTENT[2:]]
    whole, streamed = b"", b""
    for index, stored in enumerate(blob.stored):
        whole += decode_unit(meta, meta.unit(index), stored)
        decoder = UnitDecoder(meta, meta.unit(index))
        streamed += b"".join(content for _, content in decoder.feed(stored))
    assert whole == streamed == b"".join(wanted)
    assert meta.chunk(1).digest == blake3(wanted[1]).digest()
    assert meta.chunk(0).digest == blob.digests[:32]


def test_marks_of_unknown_digests_must_be_as_many_as_chunks() -> None:
    blob = plain_blob(CONTENT)
    with pytest.raises(FormatInvalid, match="3 marks"):
        BlobMeta(blob.record, blob.array, blob.digests, bytes(3))


def test_a_raw_chunk_must_have_equal_sizes() -> None:
    blob = plain_blob([b"\x00\xff"], version=2)
    with pytest.raises(FormatInvalid, match="3 stored bytes for 2"):
        _ = replace(_entry(blob, 0, compressed_size=3), record=replace(blob.record, ci_offset=3)).meta


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uncompressed_size": 4096}, "the blob table says 4096"),
        ({"ci_offset": 10}, "its object's chunks at 10"),
        ({"features": BlobFeature.ALIGNED | BlobFeature.HAS_TAR_HEADER}, "its object's chunks at"),
        ({"chunk_size": 4096}, "at most 4096"),
        ({"chunk_count": 3}, "digests for 3"),
        ({"chunk_count": 0}, "digests for 0"),
        ({"ci_uncompressed_size": 65}, "its blob says 65"),
        ({"compressor": Compressor.NONE}, "stored bytes"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    blob = plain_blob(CONTENT)
    with pytest.raises(FormatInvalid, match=message):
        BlobMeta(replace(blob.record, **changes), blob.array, blob.digests)


@pytest.mark.parametrize(
    ("features", "compressor", "name"),
    [
        (BlobFeature.TARFS, Compressor.NONE, "tarfs"),
        (BlobFeature.SEPARATED_WITH_PREFETCH_FILES, Compressor.ZSTD, "separate prefetch blob"),
        (BlobFeature.IS_CHUNKDICT_GENERATED, Compressor.ZSTD, "generated chunk dictionary"),
        (BlobFeature(0), Compressor.GZIP, "eStargz reference"),
    ],
)
def test_what_is_not_read_is_named(features: BlobFeature, compressor: Compressor, name: str) -> None:
    blob = plain_blob(CONTENT)
    record = replace(blob.record, features=blob.record.features | features, compressor=compressor)
    with pytest.raises(FormatUnsupported, match=name) as refusal:
        BlobMeta(record, blob.array, blob.digests)
    assert refusal.value.feature == name
    assert [finding.rule for finding in check_blob_meta(record, blob.cache_form, blob.digests)] == [
        "unsupported"
    ]


def test_a_unit_too_large_for_memory_is_refused() -> None:
    content = [bytes(1 << 20)] * 65
    blob = batch_blob([content])
    with pytest.raises(FormatUnsupported, match="a unit of 68157440 bytes"):
        _ = blob.meta


@pytest.mark.parametrize("compressor", list(Compressor))
def test_the_stored_array_is_read_within_its_bound(compressor: Compressor) -> None:
    blob = plain_blob([bytes(5)] * 300, version=2)
    stored = compress(compressor, blob.array)
    record = replace(blob.record, ci_compressor=compressor, ci_compressed_size=len(stored))
    assert read_chunk_info(record, stored) == blob.array
    with pytest.raises(ChunkInvalid):
        read_chunk_info(record, stored[:-1])
    huge = replace(record, ci_uncompressed_size=1 << 60)
    with pytest.raises(FormatInvalid, match="at most"):
        read_chunk_info(huge, stored)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_bytes_give_chunks_or_a_typed_error(which: int, changes: list[tuple[int, int]]) -> None:
    blob = (_batch(), plain_blob(CONTENT), plain_blob(CONTENT, version=2))[which]
    form = bytearray(blob.cache_form)
    for at, value in changes:
        form[at % len(blob.array)] = value
    try:
        meta = parse_blob_meta(blob.record, bytes(form), blob.digests)
    except RafsError:
        assert check_blob_meta(blob.record, bytes(form), blob.digests)
    else:
        assert sum(meta.unit(i).chunk_count for i in range(meta.unit_count)) == meta.chunk_count


_infos = st.tuples(
    st.integers(0, (1 << 32) - 1).map(lambda block: block * 4096),
    st.integers(1, 1 << 24),
    st.integers(0, (1 << 40) - 1),
    st.integers(1, (1 << 24) - 1),
).map(lambda fields: ChunkInfo(*fields))


def _read_v1(*infos: ChunkInfo) -> tuple[list[int], list[int], list[int]]:
    """Sizes, compressed offsets and compressed sizes that are read from the entries of *infos*."""
    array = b"".join(CHUNK_INFO_V1.pack(encode_v1(info)) for info in infos)
    columns = read_v1(plain_blob(CONTENT[:1]).record, array)
    return list(columns.size), list(columns.unit_compressed_offset), list(columns.unit_compressed_size)


@given(_infos)
def test_entries_survive_both_codings(info: ChunkInfo) -> None:
    (size,), (place,), (stored,) = _read_v1(info._replace(offset=0))
    assert (size, place, stored) == (info.size, info.compressed_offset, info.compressed_size)
    batch = info._replace(flags=5, compressed_size=0, context=7, context_offset=(1 << 32) - 1)
    crc = info._replace(flags=0x11, crc32c=0xDEADBEEF)
    for entry in (info, batch, crc):
        assert decode_v2(CHUNK_INFO_V2.unpack(CHUNK_INFO_V2.pack(encode_v2(entry)))) == entry


def test_the_worked_example_of_version_1() -> None:
    found = encode_v1(ChunkInfo(offset=0x5000, size=13400, compressed_offset=4828, compressed_size=2974))
    assert found == ChunkInfoV1(0x0345700000005000, 0x00B9D000000012DC)


def test_the_fields_of_version_2_lie_where_the_format_says() -> None:
    entry = encode_v2(ChunkInfo(3 * 4096, 0x10, 0x20, 0x30, flags=0x11, crc32c=0x40))
    assert entry == ChunkInfoV2(0x11 << 56 | 0x0F << 32 | 3, 0x30 << 40 | 0x20, 0x40)


@pytest.mark.parametrize("cipher", [Cipher.AES_256_XTS, Cipher.AES_256_GCM])
def test_a_cipher_that_is_not_read_is_named(cipher: Cipher) -> None:
    blob = plain_blob(CONTENT, version=2)
    features = blob.record.features | BlobFeature.ENCRYPTED
    record = replace(blob.record, features=features, cipher=cipher, meta_digest=bytes(range(32)))
    with pytest.raises(FormatUnsupported, match=cipher.name):
        BlobMeta(record, blob.array, blob.digests)
