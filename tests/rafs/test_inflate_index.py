"""A tar.gz decoded from its middle gives what decoding it from its beginning gives, or a typed error."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobIndex, BlobRecord
from rafs.check import check_blob_meta
from rafs.codes import BlobFeature, Compressor, Digester
from rafs.errors import ChunkInvalid, FormatInvalid, RafsError
from rafs.inflate_index import InflateIndex, InflatePoint, InflateStream, inflate, priming
from rafs.records import CHUNK_INFO_HEADER, ZRAN_CONTEXT, ZranContext
from rafs.units import UnitDecoder, decode_unit
from rafs.windows import cut_windows
from tests.support.blob_metas import MadeBlob
from tests.support.fixtures import fixture
from tests.support.referring_blobs import gzip_members, zran_blob


def _text(size: int, seed: int) -> bytes:
    chosen = random.Random(seed)
    return b"".join(chosen.choices([b"lazy ", b"image\n", b"window ", chosen.randbytes(9)], k=size))[:size]


CONTENT = _text(60_000, 1)
PLACES = [(512, 1), (1024, 9_000), (10_500, 30_000), (41_000, 500), (45_000, 15_000)]


def _blob(span: int = 8_000, memory: int = 1) -> MadeBlob:
    return zran_blob(gzip_members([CONTENT[:33_333], CONTENT[33_333:]], memory=memory), PLACES, span)


@pytest.mark.parametrize("bits", range(1, 8))
def test_priming_is_whole_blocks_of_nothing_and_the_given_bits(bits: int) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = int.from_bytes(packer.compress(CONTENT) + packer.flush(), "little")
    size = (stream.bit_length() + 7) // 8
    # The stream begins with its first bits in one byte and goes on in the next.
    first, rest = stream & (1 << bits) - 1, (stream >> bits).to_bytes(size, "little")
    assert inflate(InflatePoint(0, size, len(CONTENT), bits, first, b""), rest) == CONTENT
    assert {priming(bits, value)[-1] >> 8 - bits for value in range(1 << bits)} == set(range(1 << bits))


@given(
    st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from([0, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY]),
    st.integers(1, 4000),
    st.integers(1, 5000),
)
def test_every_stretch_gives_its_chunks_however_it_was_compressed(
    seeds: list[bytes], level: int, strategy: int, span: int, step: int
) -> None:
    members = [seed * 11 + _text(700, len(seed)) for seed in seeds]
    content = b"".join(members)
    places = [(start, min(900, len(content) - start)) for start in range(3, len(content), 1000)]
    blob = zran_blob(gzip_members(members, level=level, memory=1, strategy=strategy), places, span)
    meta, found = blob.meta, []
    for index, stored in enumerate(blob.stored):
        unit = meta.unit(index)
        assert len(stored) == unit.compressed_size
        decoder = UnitDecoder(meta, unit)
        streamed = [
            pair for at in range(0, len(stored), step) for pair in decoder.feed(stored[at : at + step])
        ]
        decoder.finish()
        assert b"".join(part for _, part in streamed) == decode_unit(meta, unit, stored)
        found += [part for _, part in streamed]
    assert found == [content[start : start + size] for start, size in places]


@pytest.mark.parametrize("bits", [0, 5])
@pytest.mark.parametrize("step", [1, 11, 100_000])
def test_a_stretch_may_begin_where_a_gzip_member_has_ended_in_front_of_its_trailer(
    step: int, bits: int
) -> None:
    members = [CONTENT[:20_000], CONTENT[20_000:40_000], CONTENT[40_000:]]
    packed = gzip_members(members)
    start = len(gzip_members(members[:1])) - 8
    point = InflatePoint(start, len(packed) - start, 40_000, bits, 0, CONTENT[:20_000])
    stored = packed[start:]
    stream = InflateStream(point)
    found = [
        stream.feed(stored[at : at + step], last=at + step >= len(stored))
        for at in range(0, len(stored), step)
    ]
    assert (b"".join(found), stream.finished) == (CONTENT[20_000:], True)


def test_points_between_bytes_occur_and_stretches_overlap() -> None:
    blob = _blob()
    index = InflateIndex(blob.array[24 * len(PLACES) :])
    assert {index.point(number).bits for number in range(index.count)} - {0}
    units = [blob.meta.unit(number) for number in range(blob.meta.unit_count)]
    ends = [unit.compressed_offset + unit.compressed_size for unit in units]
    assert any(unit.compressed_offset < end for unit, end in zip(units[1:], ends, strict=False))


def test_no_window_has_a_unit_that_reaches_into_the_one_before() -> None:
    meta = _blob().meta
    windows = cut_windows(meta)
    for window in windows:
        units = [meta.unit(window.first_unit + number) for number in range(window.unit_count)]
        for this, following in pairwise(units):
            assert this.compressed_offset + this.compressed_size <= following.compressed_offset
    assert sum(window.chunk_count for window in windows) == meta.chunk_count


def test_chunks_are_given_while_their_stretch_arrives() -> None:
    blob = zran_blob(gzip_members([CONTENT]), PLACES, 1 << 20)
    decoder = UnitDecoder(blob.meta, blob.meta.unit(0))
    assert decoder.feed(blob.stored[0][: len(blob.stored[0]) // 2])


def test_an_index_of_nydus_is_read_point_by_point() -> None:
    raw = next(fixture("nydus/zran").glob("*.blob.meta")).read_bytes()
    header = CHUNK_INFO_HEADER.unpack(raw, len(raw) - 4096)
    index = InflateIndex(raw[header.context_offset : header.ci_uncompressed_size])
    assert index.count == header.context_count == 21
    points = [index.point(number) for number in range(index.count)]
    assert [len(point.dictionary) for point in points] == [0] + [32768] * 20
    assert {point.bits for point in points} == {0, 2, 3, 5, 6, 7}
    chunks_end = points[-1].in_offset + points[-1].in_size
    record = BlobRecord(
        index=BlobIndex(0),
        id="23" * 32,
        chunk_size=1 << 20,
        chunk_count=header.ci_entries,
        compressor=Compressor.GZIP,
        digester=Digester.SHA256,
        features=BlobFeature(header.features) | BlobFeature.SEPARATE,
        compressed_size=chunks_end,
        uncompressed_size=0,
        toc_size=0,
        toc_digest=bytes(32),
        ci_compressor=Compressor(header.ci_compressor),
        ci_offset=header.ci_offset,
        ci_compressed_size=header.ci_compressed_size,
        ci_uncompressed_size=header.ci_uncompressed_size,
    )
    digests = bytes(32 * header.ci_entries)
    with pytest.raises(FormatInvalid, match="chunks fill") as refusal:
        BlobMeta(record, raw[: header.ci_uncompressed_size], digests)
    size = int(str(refusal.value).partition("chunks fill ")[2].partition(" ")[0])
    sized = replace(record, uncompressed_size=size)
    meta = BlobMeta(sized, raw[: header.ci_uncompressed_size], digests)
    assert (meta.unit_count, meta.chunk_count) == (21, 163)
    assert check_blob_meta(sized, raw, digests) == []


def _changed(number: int, **changes: int) -> MadeBlob:
    blob = _blob()
    at = 24 * len(PLACES) + ZRAN_CONTEXT.size * number
    context = ZRAN_CONTEXT.unpack(blob.array, at)._replace(**changes)
    return blob.with_array(blob.array[:at] + ZRAN_CONTEXT.pack(context) + blob.array[at + 40 :])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_size": 0}, "of 0 bytes"),
        ({"out_size": 0}, "makes 0 of"),
        ({"out_size": 100}, "of context 0"),
        ({"in_offset": 1 << 39}, "starts at"),
        ({"in_size": 1 << 26}, "its object's chunks at"),
        ({"in_size": (1 << 26) + 1}, "stored bytes for"),
        ({"dict_size": 40_000}, "they need"),
        ({"dict_offset": 1 << 50, "dict_size": 0}, None),
    ],
)
def test_a_context_that_does_not_fit_is_refused(changes: dict[str, int], message: str | None) -> None:
    blob = _changed(0, **changes)
    if message is None:
        assert blob.meta.unit(0)  # the place of an empty dictionary means nothing
        return
    with pytest.raises(FormatInvalid, match=message):
        _ = blob.meta


def test_a_dictionary_out_of_bounds_is_refused() -> None:
    with pytest.raises(FormatInvalid, match="dictionary of"):
        _ = _changed(1, dict_offset=1 << 40).meta


@given(
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4), st.booleans()
)
def test_changed_bytes_give_the_chunks_or_a_typed_error(changes: list[tuple[int, int]], index: bool) -> None:
    blob = MUTATED
    array = bytearray(blob.array)
    pieces = [bytearray(stored) for stored in blob.stored]
    for at, value in changes:
        if index:
            array[at % (24 * len(PLACES) + 400)] = value
        else:
            piece = pieces[at % len(pieces)]
            piece[at % len(piece)] = value
    try:
        meta = blob.with_array(bytes(array)).meta
        for number, piece in enumerate(pieces[: meta.unit_count]):
            unit = meta.unit(number)
            whole = decode_unit(
                meta, unit, bytes(piece).ljust(unit.compressed_size, b"\0")[: unit.compressed_size]
            )
            chunks = range(unit.first_chunk, unit.first_chunk + unit.chunk_count)
            assert whole == b"".join(CONTENT[PLACES[i][0] :][: PLACES[i][1]] for i in chunks)
    except RafsError:
        pass


MUTATED = _blob()


def test_empty_members_do_not_take_quadratic_time() -> None:
    empty = gzip_members([b""])
    count = 200_000
    point = InflatePoint(0, len(empty) * count, 10, 0, 0, b"")
    stream = InflateStream(point)
    with pytest.raises(ChunkInvalid, match="ends after 0 of 10"):
        stream.feed(empty[10:] + empty * (count - 1), last=True)


def test_no_more_is_made_than_was_promised() -> None:
    packed = gzip_members([bytes(50 << 20)])
    point = InflatePoint(10, len(packed) - 10, 4096, 0, 0, b"")
    assert inflate(point, packed[10:]) == bytes(4096)


def test_a_context_that_is_not_there_is_a_typed_error() -> None:
    index = InflateIndex(ZRAN_CONTEXT.pack(ZranContext(in_size=1, out_size=1)))
    with pytest.raises(FormatInvalid, match="no inflate context 1"):
        index.point(1)
