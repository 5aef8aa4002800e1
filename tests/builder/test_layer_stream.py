"""A layer's tar bytes come out the same however they travelled; every kind of damage has its own sentence."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator

import pytest
import zstandard

from builder.errors import LayerInvalid
from builder.layers.layer_stream import PIECE, plain_pieces

RANDOM = random.Random(3)
CONTENT = RANDOM.randbytes(200_000) + b"layer " * 300_000


def cut(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[start : start + size] for start in range(0, len(raw), size))


def unpack(stored: bytes, size: int = 10_000) -> bytes:
    return b"".join(plain_pieces(cut(stored, size), "sha256:abc").pieces)


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda raw: gzip.compress(raw, 6),
    "two gzip members": lambda raw: gzip.compress(raw[:70_000]) + gzip.compress(raw[70_000:]),
    "an empty gzip member in front": lambda raw: gzip.compress(b"") + gzip.compress(raw),
    "gzip with zero padding": lambda raw: gzip.compress(raw) + bytes(700),
    "zstd": zstandard.compress,
    "two zstd frames": lambda raw: zstandard.compress(raw[:70_000]) + zstandard.compress(raw[70_000:]),
    "zstd behind a skippable frame": lambda raw: (
        b"\x53\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstandard.compress(raw)
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 100_000])
def test_every_form_gives_the_bytes_back(form: str, size: int) -> None:
    content = CONTENT[-3000:] if size == 1 else CONTENT
    assert unpack(FORMS[form](content), size) == content


@pytest.mark.parametrize("form", FORMS)
def test_pieces_are_bounded_however_well_it_compresses(form: str) -> None:
    bomb = FORMS[form](bytes(8 << 20))
    assert all(len(piece) <= PIECE for piece in plain_pieces(cut(bomb, 100_000), "sha256:abc").pieces)


def test_no_bytes_are_an_empty_layer() -> None:
    assert unpack(b"") == b""


PACKED = gzip.compress(CONTENT)
FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (PACKED[:-3], "ends early"),
        (PACKED[:50_000], "ends early"),
        (PACKED + b"garbage", "few bytes of garbage after its last member"),
        (PACKED + bytes(20) + b"long garbage", "garbage after the last gzip member"),
        (PACKED + PACKED + b"long garbage", "garbage after the last gzip member"),
        (PACKED[:90_000] + b"\xff" * 8 + PACKED[90_008:], "corrupt gzip"),
        (FRAME + b"garbage!", "corrupt zstd"),
        (FRAME[:90_000] + b"\xff" * 8 + FRAME[90_008:], "corrupt zstd"),
        (b"\xfd7zXZ\0" + CONTENT, "compressed with xz"),
        (b"BZh9" + CONTENT, "compressed with bzip2"),
    ],
)
def test_damage_is_named_with_the_layer(stored: bytes, said: str) -> None:
    with pytest.raises(LayerInvalid, match=said) as caught:
        unpack(stored)
    assert "sha256:abc" in str(caught.value)


def test_a_zstd_window_of_half_a_gigabyte_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=29, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(LayerInvalid, match="zstd"):
        unpack(writer.compress(b"x" * 1000) + writer.flush())
