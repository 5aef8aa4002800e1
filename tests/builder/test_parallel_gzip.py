"""A gzip stream made by several threads: one stream to any reader, the same bytes with any number."""

from __future__ import annotations

import gzip
import random
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.parallel_gzip import gzip_pieces


def made(pieces: list[bytes], threads: int) -> bytes:
    return b"".join(gzip_pieces(pieces, threads))


@given(st.lists(st.binary(max_size=40_000), max_size=6), st.sampled_from([1, 3]))
def test_readers_get_the_pieces_back(pieces: list[bytes], threads: int) -> None:
    assert gzip.decompress(made(pieces, threads)) == b"".join(pieces)


def test_the_number_of_threads_changes_no_byte() -> None:
    chance = random.Random(3)
    pieces = [chance.randbytes(3000) * 20 for _ in range(40)]
    assert made(pieces, 1) == made(pieces, 4)


def test_a_piece_knows_what_came_before_it() -> None:
    noise = random.Random(4).randbytes(20_000)
    assert len(made([noise] * 10, 2)) < 22_000


def test_gzip_itself_finds_nothing_wrong() -> None:
    subprocess.run(["gzip", "-t"], input=made([b"piece" * 1000, b"", b"x"], 2), check=True)


def test_a_failure_of_the_source_is_the_callers() -> None:
    def broken() -> Iterator[bytes]:
        yield b"piece"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(gzip_pieces(broken(), 2))
