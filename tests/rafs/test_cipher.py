"""Encrypted pieces come out as they went in, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.cipher import UnitCipher
from rafs.codes import Compressor
from rafs.errors import ChunkInvalid
from rafs.units import decode_unit
from tests.support.blob_metas import batch_blob, plain_blob
from tests.support.referring_blobs import KEY, TWEAK, encrypted, encrypted_blob

CIPHER = UnitCipher(KEY, TWEAK)


@given(st.binary(min_size=1, max_size=100))
def test_pieces_of_every_length_come_back(piece: bytes) -> None:
    stored = encrypted(piece)
    assert len(stored) == (len(piece) if len(piece) >= 16 else 18)
    assert CIPHER.decrypt(stored, len(piece)) == piece
    assert CIPHER.decrypt(stored) == piece


def test_a_piece_that_only_looks_filled_up_is_told_by_its_size() -> None:
    piece = b"x" * 15 + b"\x03\x78\x90"
    assert CIPHER.decrypt(encrypted(piece), 18) == piece
    assert CIPHER.decrypt(encrypted(piece)) == piece[:13]


@pytest.mark.parametrize("size", [0, 1, 15])
def test_less_than_a_block_is_refused(size: int) -> None:
    with pytest.raises(ChunkInvalid, match="expected at least 16"):
        CIPHER.decrypt(bytes(size))


def test_a_key_of_another_length_is_a_typed_error() -> None:
    with pytest.raises(ChunkInvalid, match="cannot be decrypted"):
        UnitCipher(bytes(31), TWEAK).decrypt(bytes(16))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([Compressor.ZSTD, Compressor.NONE]),
)
def test_blobs_of_tiny_chunks_are_read(sizes: list[int], batch: bool, compressor: Compressor) -> None:
    content = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    if batch:
        plain = batch_blob([[part] for part in content], compressor)
    else:
        plain = plain_blob(content, compressor, version=2)
    blob = encrypted_blob(plain)
    meta = blob.meta
    assert [decode_unit(meta, meta.unit(i), stored) for i, stored in enumerate(blob.stored)] == content


def test_another_key_gives_no_chunk() -> None:
    blob = encrypted_blob(plain_blob([b"chunk" * 100], version=2))
    meta = blob.meta
    meta.cipher = UnitCipher(KEY[::-1], TWEAK)
    with pytest.raises(ChunkInvalid):
        decode_unit(meta, meta.unit(0), blob.stored[0])
