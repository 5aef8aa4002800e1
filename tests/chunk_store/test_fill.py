"""What readers are promised of a window that is being filled."""

from __future__ import annotations

import time

import pytest

from chunk_store.errors import ChunkUnavailable
from chunk_store.fill import Fill
from chunk_store.plan import Priority


def test_memory_is_promised_only_as_far_as_it_was_copied() -> None:
    fill = Fill(0, Priority.DEMAND)
    fill.advance(8192)
    memory = bytearray(8192)
    fill.move_to_memory(memory, 4096)
    assert fill.wait(4096, time.monotonic()) == (True, memory)
    assert fill.wait(8192, time.monotonic()) == (False, None)


def test_what_is_verified_is_readable_even_if_the_rest_failed() -> None:
    fill = Fill(0, Priority.DEMAND)
    fill.advance(100)
    fill.fail(ChunkUnavailable("no"))
    assert fill.wait(100, time.monotonic()) == (True, None)
    with pytest.raises(ChunkUnavailable, match="no"):
        fill.wait(101, time.monotonic() + 10)


def test_every_waiter_gets_an_error_of_its_own() -> None:
    fill = Fill(0, Priority.DEMAND)
    fill.fail(ChunkUnavailable("no"))
    errors = []
    for _ in range(2):
        with pytest.raises(ChunkUnavailable) as caught:
            fill.wait(1, time.monotonic() + 10)
        errors.append(caught.value)
    assert errors[0] is not errors[1]
