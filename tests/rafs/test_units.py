"""Stored bytes become verified chunks, or a typed error; never other bytes, never unbounded memory."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rafs.blob_meta import BlobMeta
from rafs.chunk_info import ChunkInfo, encode_v2
from rafs.codes import ChunkFlag, Compressor, Digester
from rafs.decompress import ZstdStream, decompress
from rafs.errors import ChunkInvalid
from rafs.records import BATCH_CONTEXT, CHUNK_INFO_V2, BatchContext
from rafs.units import UnitDecoder, decode_unit
from tests.support.blob_metas import MadeBlob, batch_blob, plain_blob
from tests.support.referring_blobs import encrypted_blob, gzip_members, zran_blob


def _text(size: int, seed: int = 0) -> bytes:
    words = random.Random(seed).choices([b"lazy ", b"image ", b"window\n", b"chunk of "], k=size // 4 + 1)
    return b"".join(words)[:size]


CONTENT = [_text(300_000, 1), _text(1, 2), _text(4096, 3), random.Random(4).randbytes(50_000), bytes(200_000)]
# As in a tar: a header before each file, padding behind it.
PADDED = b"".join(b"header".ljust(512, b"\0") + part + bytes(-len(part) % 512) for part in CONTENT)
PLACES = [(PADDED.index(part, 512), len(part)) for part in CONTENT]
PLACES[1] = (PADDED.index(b"header", 512) + 512, 1)
BLOBS = {
    "batch zstd": batch_blob([CONTENT[:2], CONTENT[2:]]),
    "batch lz4": batch_blob([CONTENT[:2], CONTENT[2:]], Compressor.LZ4_BLOCK),
    "batch gzip": batch_blob([CONTENT[:2], CONTENT[2:]], Compressor.GZIP),
    "batch raw unit": batch_blob([[CONTENT[3]], CONTENT]),
    "V1 zstd": plain_blob(CONTENT),
    "V1 lz4": plain_blob(CONTENT, Compressor.LZ4_BLOCK),
    "V1 none": plain_blob(CONTENT, Compressor.NONE),
    "V1 sha256": plain_blob(CONTENT, digester=Digester.SHA256),
    "V2 zstd": plain_blob(CONTENT, version=2),
    "V2 gzip": plain_blob(CONTENT, Compressor.GZIP, version=2),
    "ZRAN": zran_blob(gzip_members([PADDED[:250_000], PADDED[250_000:]]), PLACES, 120_000),
    "encrypted V2 zstd": encrypted_blob(plain_blob(CONTENT, version=2)),
    "encrypted V2 none": encrypted_blob(plain_blob(CONTENT, Compressor.NONE, version=2)),
    "encrypted batch": encrypted_blob(batch_blob([CONTENT[:1], CONTENT[1:2], CONTENT[2:]])),
}
every_blob = pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS)


def _stream(meta: BlobMeta, index: int, stored: bytes, step: int) -> list[bytes]:
    decoder = UnitDecoder(meta, meta.unit(index))
    found = [pair for at in range(0, len(stored), step) for pair in decoder.feed(stored[at : at + step])]
    decoder.finish()
    return [content for _, content in found]


@every_blob
@pytest.mark.parametrize("step", [1 << 20, 65536, 777])
def test_both_ways_give_the_chunks(blob: MadeBlob, step: int) -> None:
    meta = blob.meta
    whole = b"".join(decode_unit(meta, meta.unit(i), stored) for i, stored in enumerate(blob.stored))
    streamed = [content for i, stored in enumerate(blob.stored) for content in _stream(meta, i, stored, step)]
    assert (
        whole == b"".join(CONTENT) if len(CONTENT) == meta.chunk_count else whole.endswith(b"".join(CONTENT))
    )
    assert streamed[-len(CONTENT) :] == CONTENT


@every_blob
def test_a_flipped_bit_never_gives_another_byte(blob: MadeBlob) -> None:
    meta, refused = blob.meta, 0
    for index, stored in enumerate(blob.stored):
        good = decode_unit(meta, meta.unit(index), stored)
        for at in {0, len(stored) // 3, len(stored) // 2, len(stored) - 1}:
            broken = bytearray(stored)
            broken[at] ^= 0x10
            # A bit that the decoder does not look at (gzip has a time and padding) may be harmless.
            try:
                assert decode_unit(meta, meta.unit(index), bytes(broken)) == good
            except ChunkInvalid as error:
                refused += 1
                assert meta.id in str(error)
                with pytest.raises(ChunkInvalid, match=meta.id):
                    _stream(meta, index, bytes(broken), 999)
            else:
                assert b"".join(_stream(meta, index, bytes(broken), 999)) == good
    assert refused >= len(blob.stored)


@every_blob
def test_a_cut_off_unit_is_refused_both_ways(blob: MadeBlob) -> None:
    meta = blob.meta
    for index, stored in enumerate(blob.stored):
        for cut in {0, 1, len(stored) // 2, len(stored) - 1} - {len(stored)}:
            with pytest.raises(ChunkInvalid):
                decode_unit(meta, meta.unit(index), stored[:cut])
            with pytest.raises(ChunkInvalid):
                _stream(meta, index, stored[:cut], 1000)


@every_blob
def test_bytes_after_the_unit_are_refused(blob: MadeBlob) -> None:
    meta = blob.meta
    with pytest.raises(ChunkInvalid):
        decode_unit(meta, meta.unit(0), blob.stored[0] + b"x")
    with pytest.raises(ChunkInvalid):
        _stream(meta, 0, blob.stored[0] + b"x", 1000)


def test_a_chunk_is_given_before_the_rest_of_its_unit_arrives() -> None:
    content = [random.Random(i).randbytes(200_000) for i in range(4)]
    for blob in (batch_blob([[b"compressible " * 30_000, *content]]), batch_blob([content])):
        decoder = UnitDecoder(blob.meta, blob.meta.unit(0))
        assert decoder.feed(blob.stored[0][: len(blob.stored[0]) // 2])
        assert decoder.missing == len(blob.stored[0]) - len(blob.stored[0]) // 2


def test_a_good_chunk_is_given_and_the_broken_one_after_it_is_not() -> None:
    blob = batch_blob([[random.Random(i).randbytes(200_000) for i in range(3)]])
    broken = bytearray(blob.stored[0])
    broken[-1] ^= 1
    decoder = UnitDecoder(blob.meta, blob.meta.unit(0))
    assert [chunk.index for chunk, _ in decoder.feed(bytes(broken[:400_000]))] == [0, 1]
    with pytest.raises(ChunkInvalid, match="chunk 2"):
        decoder.feed(bytes(broken[400_000:]))


def test_a_digest_that_is_another_chunks_is_refused() -> None:
    blob = plain_blob(CONTENT)
    swapped = blob.digests[32:64] + blob.digests[:32] + blob.digests[64:]
    meta = replace(blob, digests=swapped).meta
    with pytest.raises(ChunkInvalid, match="expected 300000 with"):
        decode_unit(meta, meta.unit(0), blob.stored[0])


def _promising(stored: bytes, size: int) -> BlobMeta:
    """One batch unit that promises *size* bytes in *stored*."""
    array = CHUNK_INFO_V2.pack(encode_v2(ChunkInfo(0, size, 0, 0, ChunkFlag.BATCH)))
    array += BATCH_CONTEXT.pack(BatchContext(compressed_size=len(stored), size=size))
    record = batch_blob([[b"x" * 8192]]).record
    record = replace(
        record, ci_offset=len(stored), ci_uncompressed_size=len(array), uncompressed_size=size + -size % 4096
    )
    return BlobMeta(record, array, bytes(32))


@pytest.mark.parametrize("with_size", [True, False])
def test_a_frame_that_makes_more_than_promised_is_stopped(with_size: bool) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=with_size).compress(bytes(300 << 20))
    stored = bomb + b"\0" * max(0, 30_000 - len(bomb))
    meta = _promising(stored, 1 << 20)
    with pytest.raises(ChunkInvalid):
        decode_unit(meta, meta.unit(0), stored)
    decoder = UnitDecoder(meta, meta.unit(0))
    with pytest.raises(ChunkInvalid, match=r"more than the expected|zstd frame is for"):
        decoder.feed(stored)


def test_a_window_larger_than_any_unit_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stored = compressor.compress(CONTENT[0]) + compressor.flush()
    meta = _promising(stored, len(CONTENT[0]))
    for decode in (
        lambda: decode_unit(meta, meta.unit(0), stored),
        lambda: UnitDecoder(meta, meta.unit(0)).feed(stored),
    ):
        with pytest.raises(ChunkInvalid, match="window of"):
            decode()


def test_two_frames_are_not_one_unit() -> None:
    half = zstandard.ZstdCompressor().compress(CONTENT[0][:150_000])
    with pytest.raises(ChunkInvalid):
        ZstdStream(300_000).feed(half + half, last=True)


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=6), st.booleans(), st.lists(st.integers(1, 50)))
def test_the_stream_gives_the_frame_however_it_is_cut(
    pieces: list[bytes], checksum: bool, cuts: list[int]
) -> None:
    content = b"".join(piece * 7 for piece in pieces) + b"end"
    stored = zstandard.ZstdCompressor(write_checksum=checksum).compress(content)
    stream, found, at = ZstdStream(len(content)), b"", 0
    for step in [*cuts, len(stored)]:
        piece = stored[at : at + step]
        at += len(piece)
        found += stream.feed(piece, last=at >= len(stored))
        if at >= len(stored):
            break
    assert found == content
    assert stream.finished


def _frame_with_an_empty_block(content: bytes) -> bytes:
    """A frame with a checksum, and a block that makes nothing in its midst and as its last."""
    stored = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True).compress(content)
    at = zstandard.frame_header_size(stored)
    head = int.from_bytes(stored[at : at + 3], "little")
    assert head & 1  # one block
    block = stored[at + 3 : -4]
    empty, last = (0).to_bytes(3, "little"), (1).to_bytes(3, "little")
    return stored[:at] + empty + (head & ~1).to_bytes(3, "little") + block + empty + last + stored[-4:]


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_blocks_that_make_nothing_are_part_of_a_frame(step: int) -> None:
    content = CONTENT[0][:100_000]
    stored = _frame_with_an_empty_block(content)
    assert decompress(Compressor.ZSTD, stored, len(content)) == content
    stream, found = ZstdStream(len(content)), b""
    for at in range(0, len(stored), step):
        found += stream.feed(stored[at : at + step], last=at + step >= len(stored))
    assert stream.finished and found == content


@pytest.mark.parametrize("step", [7, 1 << 20])
def test_a_frame_whose_checksum_is_wrong_is_refused(step: int) -> None:
    content = CONTENT[0][:100_000]
    for stored in (
        zstandard.ZstdCompressor(write_checksum=True).compress(content),
        _frame_with_an_empty_block(content),
    ):
        broken = stored[:-1] + bytes([stored[-1] ^ 1])
        stream = ZstdStream(len(content))
        with pytest.raises(ChunkInvalid, match="broken after"):
            for at in range(0, len(broken), step):
                stream.feed(broken[at : at + step], last=at + step >= len(broken))
