"""The gate: every access gets exactly one answer, never a yes before its bytes are there.

The group of events is a socket here, whose other end is the kernel's part; files and journal are real.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable

import pytest

from erofs_fs import fanotify, gate
from erofs_fs.errors import QueueOverflow
from erofs_fs.journal import Waiting
from tests.erofs_fs.gate_bench import (
    LENGTH,
    NO,
    OURS,
    OVERFLOW,
    PAGE,
    YES,
    Bench,
    is_open,
    name_of,
    packed_event,
)


def test_an_access_waits_until_its_bytes_are_there(bench: Bench) -> None:
    first = bench.take(0, 0, PAGE)
    second = bench.take(0, 2 * PAGE, PAGE)
    other = bench.take(1, 0, PAGE)
    assert bench.needed == [(name_of(0), PAGE), (name_of(0), 3 * PAGE), (name_of(1), PAGE)]
    assert bench.answers() == []
    bench.gate.have(name_of(0), 2 * PAGE)
    assert bench.answers() == [(first, YES)]
    os.truncate(bench.file(0), LENGTH)
    bench.gate.have(name_of(0), LENGTH)
    assert bench.answers() == [(second, YES)]
    bench.gate.lost(name_of(1))
    assert bench.answers() == [(other, NO)]
    assert len(bench.gate) == 0 and not any(map(is_open, (first, second, other)))


def test_it_is_in_the_journal_before_it_is_told_and_gone_before_its_number_can_come_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = bench.take(0, 0, PAGE, thread=77)
    inode = bench.file(0).stat().st_ino
    assert bench.noted == [[Waiting(number, inode, PAGE, bench.clock.now, 77)]]
    allow, close, order = fanotify.allow, os.close, []

    def allowing(group: int, answered: int) -> bool:
        # A keeper that is killed here leaves it to its successor, not to nobody.
        order.append(("answered", answered, len(list(bench.journal.waiting()))))
        return allow(group, answered)

    def closing(closed: int) -> None:
        # A number that is free may be the next access's.
        order.append(("closed", closed, len(list(bench.journal.waiting()))))
        close(closed)

    monkeypatch.setattr(fanotify, "allow", allowing)
    monkeypatch.setattr(os, "close", closing)
    bench.gate.have(name_of(0), PAGE)
    assert order == [("answered", number, 1), ("closed", number, 0)]
    assert bench.answers() == [(number, YES)]


def test_a_window_that_is_said_to_be_whole_and_is_not_is_an_error(bench: Bench) -> None:
    number = bench.take(0, 0, PAGE)
    os.truncate(bench.file(0), LENGTH - 1)
    bench.gate.have(name_of(0), LENGTH)
    assert bench.answers() == [(number, NO)]


def test_what_is_in_a_verified_prefix_or_whole_waits_for_nobody(bench: Bench) -> None:
    bench.gate.have(name_of(0), 2 * PAGE)
    inside = bench.take(0, PAGE, PAGE)
    os.truncate(bench.file(1), LENGTH)
    whole = bench.take(1, 0, LENGTH + PAGE)  # readahead beyond the end
    assert bench.answers() == [(inside, YES), (whole, YES)]
    assert bench.needed == [] and bench.gate.counts["at_once"] == 2


def test_an_access_to_what_is_no_window_is_an_error(bench: Bench) -> None:
    (bench.directory / "foreign").touch()
    number = bench.access(bench.directory / "foreign", 0, PAGE)
    bench.gate.read()
    assert bench.answers() == [(number, NO)]
    assert not is_open(number)


def test_a_window_is_known_by_its_file_whatever_that_is_called(bench: Bench) -> None:
    renamed = bench.directory / "renamed"
    bench.file(0).rename(renamed)
    number = bench.access(renamed, 0, PAGE)
    bench.gate.read()
    assert bench.needed == [(name_of(0), PAGE)]
    # Under its name there is nothing, so nothing that is said of the window is true of this file.
    bench.gate.have(name_of(0), LENGTH)
    assert bench.answers() == [(number, NO)]


def test_who_fills_waits_for_nobody(bench: Bench) -> None:
    number = bench.take(0, 0, PAGE, thread=OURS)
    assert bench.answers() == [(number, YES)]
    assert bench.gate.counts["own"] == 1


def test_who_is_not_seen_from_here_is_taken_for_nobody_and_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of another PID namespace has the number 0, as has a filler that there is not."""
    bench.gate._ours = lambda thread: thread in (OURS, 0)
    bench.take(0, 0, PAGE, thread=0)
    inode = bench.file(0).stat().st_ino
    monkeypatch.setattr(gate, "lock_owners", lambda *_: {inode: 0})
    bench.wait(1)
    assert bench.answers() == [] and len(bench.gate) == 1


def test_an_access_whose_number_the_journal_has_no_place_for_is_an_error(bench: Bench) -> None:
    opened = os.open(bench.file(0), os.O_RDONLY)
    number = fcntl.fcntl(opened, fcntl.F_DUPFD, bench.journal.capacity)
    os.close(opened)
    bench.kernel.send(packed_event(number, 7, 0, PAGE))
    bench.gate.read()
    assert bench.answers() == [(number, NO)]
    assert not is_open(number) and bench.needed == []
    assert bench.said == ["an access was refused: too many descriptors are open"]


def test_who_holds_the_lock_of_a_window_does_not_wait_for_it_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling, reading = bench.take(0, 0, PAGE, thread=1050), bench.take(0, 0, PAGE, thread=51)
    inode = bench.file(0).stat().st_ino
    there = bench.file(0).stat().st_dev
    monkeypatch.setattr(
        gate,
        "lock_owners",
        lambda device, inodes: {inode: 50} if device == there and inode in inodes else {},
    )
    due = bench.gate.due()
    assert due is not None and due < bench.clock.now + 1
    bench.clock.now = due
    bench.gate.overdue(bench.clock.now)
    assert bench.answers() == [(filling, YES)]
    assert is_open(reading) and len(bench.gate) == 1


def test_who_cuts_a_window_waits_for_nobody(bench: Bench) -> None:
    number = bench.take(0, 3 * PAGE, 0)  # to three pages
    assert bench.answers() == [(number, YES)]


def test_an_event_without_a_range_waits_for_the_whole_window(bench: Bench) -> None:
    opened = os.open(bench.file(0), os.O_RDONLY)
    bench.kernel.send(struct.pack("<IBBHQii", 24, 3, 0, 24, 0x0010_0000, opened, 7))
    bench.gate.read()
    assert bench.needed == [(name_of(0), LENGTH)]


def test_nobody_waits_longer_than_the_limit(bench: Bench) -> None:
    first = bench.take(0, 0, PAGE)
    bench.clock.now += 10
    second = bench.take(1, 0, PAGE)
    bench.gate.overdue(bench.clock.now + 9.9)
    assert bench.answers() == []
    bench.wait(10)
    assert bench.answers() == [(first, NO)]
    assert bench.late == [(name_of(0), PAGE)]
    # What has become whole meanwhile, without a word, is no error.
    os.truncate(bench.file(1), LENGTH)
    bench.wait(10)
    assert bench.answers() == [(second, YES)]
    assert bench.gate.due() is None


def test_who_came_later_for_the_same_window_has_the_whole_limit(bench: Bench) -> None:
    first = bench.take(0, 0, PAGE)
    bench.clock.now += 15
    second = bench.take(0, PAGE, PAGE)
    bench.wait(5)
    assert bench.answers() == [(first, NO)]
    bench.gate.have(name_of(0), 2 * PAGE)
    assert bench.answers() == [(second, YES)]


def test_a_fetch_that_failed_is_an_error_for_those_who_needed_it_then(bench: Bench) -> None:
    first = bench.take(0, 0, PAGE)
    bench.clock.now += 15
    second = bench.take(0, PAGE, PAGE)
    bench.gate.lost(name_of(0), int((bench.clock.now - 1) * 1e9))
    assert bench.answers() == [(first, NO)]
    bench.gate.lost(name_of(0), int(bench.clock.now * 1e9))
    assert bench.answers() == [(second, NO)]


def test_no_more_wait_here_than_there_are_numbers_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_events = fanotify.read_events

    def reading(group: int, most: int) -> list[fanotify.Event]:
        assert most > 0  # else the kernel refuses
        return read_events(group, most)

    monkeypatch.setattr(fanotify, "read_events", reading)
    bench.most = 2
    bench.gate = bench.another()
    bench.take(0, 0, PAGE)
    assert bench.gate.room == 1
    bench.take(1, 0, PAGE)
    third = bench.access(bench.file(2), 0, PAGE, thread=8)
    bench.gate.read()
    assert (len(bench.gate), bench.gate.room) == (2, 0)
    assert bench.group.recv(1 << 16, socket.MSG_PEEK)  # it waits in the kernel's queue
    bench.gate.lost(name_of(0))
    bench.gate.read()
    assert bench.needed[-1] == (name_of(2), PAGE) and is_open(third)


def test_who_waits_in_the_kernels_queue_gets_the_place_of_who_has_waited_for_the_longest(
    bench: Bench,
) -> None:
    bench.most = 2
    bench.gate = bench.another()
    first = bench.take(0, 0, PAGE, thread=50)
    bench.clock.now += 1
    second = bench.take(1, 0, PAGE, thread=51)
    bench.clock.now += 1
    queued = [os.open(bench.file(2), os.O_RDONLY) for _ in range(2)]
    bench.kernel.send(b"".join(packed_event(number, 52 + number, 0, PAGE) for number in queued))
    due = bench.gate.due()
    while due is not None and due < bench.clock.now + 6.9:
        bench.gate.overdue(due)
        due = bench.gate.due()
    assert bench.answers() == [] and bench.needed == [(name_of(0), PAGE), (name_of(1), PAGE)]
    assert not bench.gate.is_open
    bench.wait(7)
    assert bench.gate.is_open
    bench.gate.read()
    assert bench.answers() == [(first, NO), (second, NO)]
    assert bench.needed[2:] == [(name_of(2), PAGE)] * 2
    assert bench.said == ["more than 2 reads wait: the oldest get an error"]
    # What the kernel asks on for who was refused does not wait again behind all others.
    assert bench.gate.is_open
    page = bench.take(0, 0, PAGE, thread=50)
    assert bench.answers() == [(page, NO)]
    # Nobody knows when they came, but that it was not before there was no room.
    bench.wait(11)
    assert bench.answers() == []
    bench.wait(1)
    assert bench.answers() == [(number, NO) for number in queued]


def test_nobody_gets_an_error_for_want_of_room_when_nobody_else_has_come(bench: Bench) -> None:
    bench.most = 2
    bench.gate = bench.another()
    bench.take(0, 0, PAGE)
    bench.take(1, 0, PAGE)
    bench.wait(15)
    assert bench.answers() == [] and bench.said == []
    assert not bench.gate.is_open
    due = bench.gate.due()
    assert due is not None and due > bench.clock.now


def test_who_comes_when_the_kernels_queue_was_empty_has_the_whole_limit(bench: Bench) -> None:
    bench.most = 2
    bench.gate = bench.another()
    bench.take(0, 0, PAGE)
    bench.take(0, 0, PAGE)
    bench.clock.now += 5
    bench.gate.have(name_of(0), PAGE)
    bench.gate.read()
    number = bench.take(1, 0, PAGE)
    bench.answers()
    bench.wait(19)
    assert bench.answers() == []
    bench.wait(1)
    assert bench.answers() == [(number, NO)]


def test_a_successor_goes_on_with_who_waits_and_refuses_whom_nobody_knows(bench: Bench) -> None:
    waiting = bench.take(0, PAGE, PAGE)
    lost = bench.take(1, 0, PAGE)
    bench.windows.release([window for window in bench.windows if window.id == name_of(1)])
    bench.needed.clear()
    successor = bench.another()
    successor.resume(list(bench.journal.waiting()))
    answers = dict(bench.answers())
    # Also a number that stands for an access which the keeper before had read and not noted.
    assert answers == dict.fromkeys(set(range(200)) - {waiting}, NO)
    assert lost in answers
    assert bench.needed == [(name_of(0), 2 * PAGE)]
    assert [found.number for found in bench.journal.waiting()] == [waiting]
    successor.have(name_of(0), 2 * PAGE)
    assert bench.answers() == [(waiting, YES)]


def test_a_successor_lets_nobody_wait_longer_than_the_limit_whatever_their_numbers_are(
    bench: Bench,
) -> None:
    high = fcntl.fcntl(low := os.open(bench.file(0), os.O_RDONLY), fcntl.F_DUPFD, 100)
    bench.kernel.send(packed_event(high, 7, 0, PAGE))
    bench.gate.read()
    bench.clock.now += 15
    bench.kernel.send(packed_event(low, 8, PAGE, PAGE))
    bench.gate.read()
    bench.gate = bench.another()
    bench.gate.resume(list(bench.journal.waiting()))
    assert bench.gate.oldest == bench.clock.now - 15
    bench.answers()
    bench.wait(5)
    assert bench.answers() == [(high, NO)]
    bench.wait(15)
    assert bench.answers() == [(low, NO)]


@pytest.mark.parametrize(("silent", "left"), [(6, 14), (3600, 10), (-15, 20)])
def test_who_came_while_the_keeper_before_was_silent_has_waited_since_then(
    bench: Bench, silent: float, left: float
) -> None:
    """Or for half of the limit, if nobody can say."""
    bench.journal.turn(bench.clock.now - silent)
    queued = bench.access(bench.file(0), 0, PAGE)
    bench.gate = bench.another()
    bench.gate.resume([])
    bench.answers()
    bench.gate.overdue(bench.clock.now)  # as a keeper does before it reads
    bench.gate.read()
    assert bench.said == []
    bench.wait(left - 0.01)
    assert bench.answers() == []
    bench.wait(0.02)
    assert bench.answers() == [(queued, NO)]


def test_a_full_table_of_descriptors_is_said_and_survived(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(code: int) -> Callable[[int, int], list[fanotify.Event]]:
        def read(_group: int, _most: int) -> list[fanotify.Event]:
            raise OSError(code, os.strerror(code))

        return read

    for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        monkeypatch.setattr(fanotify, "read_events", fail(code))
        bench.gate.read()
    assert bench.said == [
        "an access was refused: Too many open files",
        "an access was refused: Too many open files in system",
        "an access was refused: Cannot allocate memory",
    ]
    monkeypatch.setattr(fanotify, "read_events", fail(errno.EBADF))
    with pytest.raises(OSError, match="Bad file descriptor"):
        bench.gate.read()


def test_lost_events_end_the_keeper(bench: Bench) -> None:
    """Cannot happen to an unlimited queue: if it does, readers have got what nobody has looked at."""
    bench.kernel.send(packed_event(-1, 0, 0, 0, mask=OVERFLOW))
    with pytest.raises(QueueOverflow):
        bench.gate.read()


def test_events_that_come_together_are_answered_each(bench: Bench) -> None:
    numbers = [os.open(bench.file(number % 2), os.O_RDONLY) for number in range(6)]
    bench.kernel.send(b"".join(packed_event(number, 7, 0, PAGE) for number in numbers))
    bench.gate.read()
    for window in (0, 1):
        bench.gate.have(name_of(window), PAGE)
    assert sorted(bench.answers()) == [(number, YES) for number in sorted(numbers)]
