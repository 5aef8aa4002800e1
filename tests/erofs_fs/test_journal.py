"""The journal says who waits, to whoever has its descriptor, and never what is not so."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erofs_fs.journal import MOST_NUMBERS, Journal, Waiting, new_journal

CAPACITY = 64
waitings = st.builds(
    Waiting,
    number=st.integers(0, CAPACITY - 1),
    inode=st.integers(1, 2**64 - 1),
    end=st.integers(0, 2**64 - 1),
    since=st.floats(0, 1e9),
    thread=st.integers(0, 2**31 - 1),
)


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = new_journal(CAPACITY)
    yield descriptor
    os.close(descriptor)


@given(st.lists(st.one_of(waitings, st.integers(0, CAPACITY - 1)), max_size=40))
def test_a_successor_finds_exactly_those_who_were_not_answered(steps: list[Waiting | int]) -> None:
    descriptor = new_journal(CAPACITY)
    journal, right = Journal(descriptor), {}
    for step in steps:
        if isinstance(step, Waiting):
            journal.note(step)
            right[step.number] = step
        else:
            journal.clear(step)
            right.pop(step, None)
    successor = Journal(descriptor)
    os.close(descriptor)
    assert {waiting.number: waiting for waiting in successor.waiting()} == right
    assert successor.capacity == CAPACITY


def test_what_was_noted_is_there_when_its_keeper_is_killed(memory: int) -> None:
    child = os.fork()
    if not child:
        Journal(memory).note(Waiting(5, 77, 4096, 1.5, 99))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(Journal(memory).waiting()) == [Waiting(5, 77, 4096, 1.5, 99)]


def test_a_slot_that_was_not_written_to_its_end_is_empty(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inode says that it is taken, so it comes last."""
    journal = Journal(memory)
    written: list[slice] = []

    class Torn:
        def __setitem__(self, place: slice, value: bytes) -> None:
            if written:
                raise KeyboardInterrupt
            written.append(place)
            whole[place] = value

    whole = mmap.mmap(memory, 0)
    monkeypatch.setattr(journal, "_map", Torn())
    with pytest.raises(KeyboardInterrupt):
        journal.note(Waiting(3, 12, 8192, 2.5, 1))
    assert len(written) == 1
    assert list(Journal(memory).waiting()) == []


def test_when_a_keeper_last_looked_is_seen_by_all_who_share_it_and_takes_no_number(memory: int) -> None:
    journal, other = Journal(memory), Journal(memory)
    assert (other.turned, other.capacity) == (0, CAPACITY)
    journal.turn(12.5)
    for number in range(CAPACITY):
        journal.note(Waiting(number, 7, 4096, 1.5, 9))
        journal.clear(number)
    assert (other.turned, list(other.waiting())) == (12.5, [])


def test_its_size_is_bounded() -> None:
    descriptor = new_journal(1 << 30)
    try:
        assert Journal(descriptor).capacity == MOST_NUMBERS
        assert os.fstat(descriptor).st_blocks == 0  # and takes no memory before it is used
    finally:
        os.close(descriptor)
