"""What readers are promised of a window that is being filled."""

from __future__ import annotations

import time

import pytest

from chunk_store.errors import ChunkUnavailable, StoreError, StoreFull
from chunk_store.fill import Fill
from chunk_store.priority import Priority


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


def test_every_waiter_gets_an_error_of_its_own_that_says_the_same() -> None:
    fill = Fill(0, Priority.DEMAND)
    fill.fail(ChunkUnavailable("no", temporary=True))
    errors = []
    for _ in range(2):
        with pytest.raises(ChunkUnavailable) as caught:
            fill.wait(1, time.monotonic() + 10)
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert [(str(error), error.temporary) for error in errors] == [("no", True)] * 2


def test_a_listener_hears_once_as_soon_as_its_bytes_are_in_the_file() -> None:
    fill = Fill(0, Priority.DEMAND)
    heard: list[tuple[str, StoreError | None]] = []
    fill.tell(100, lambda error: heard.append(("early", error)))
    fill.tell(5000, lambda error: heard.append(("late", error)))
    fill.advance(4096)
    assert heard == [("early", None)]
    fill.advance(8192)
    fill.advance(8192)
    assert heard == [("early", None), ("late", None)]
    fill.tell(8000, lambda error: heard.append(("at once", error)))
    assert heard[2:] == [("at once", None)]


def test_a_listener_hears_why_its_bytes_do_not_come() -> None:
    fill = Fill(0, Priority.DEMAND)
    heard: list[StoreError | None] = []
    fill.tell(100, heard.append)
    failure = ChunkUnavailable("no")
    fill.fail(failure)
    fill.tell(100, heard.append)
    assert heard == [failure, failure]


def test_bytes_in_memory_are_none_for_who_reads_the_file() -> None:
    fill = Fill(0, Priority.DEMAND)
    heard: list[StoreError | None] = []
    fill.tell(5000, heard.append)
    fill.refused(OSError(28, "No space left on device"))
    fill.move_to_memory(bytearray(8192), 4096)
    fill.tell(100, heard.append)
    fill.advance(8192)
    assert [type(error) for error in heard] == [StoreFull, StoreFull]
    assert "No space left on device" in str(heard[0])
