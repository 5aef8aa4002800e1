"""Which accesses wait for an answer: kept where the death of the one who has to answer does not reach.

A memfd that the keeper shares with whoever holds its group for it. The slot of a waiting access is its
number, so a successor knows for each number what it stands for, without having read the event. A slot is
written after the event was read and cleared after it was answered: what a keeper that died in between
leaves is found by trying.

Behind the slots the keeper notes when it last looked: whoever shares the memory sees whether it still does.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_SLOT = struct.Struct("<QQdQ")  # inode of the window's file, end of the range, when it was read, whose it is
_EMPTY = bytes(_SLOT.size)
_TURN: Final = slice(16, 24)  # of the slot behind all others, whose inode stays 0: a double
MOST_NUMBERS: Final = 1 << 16


class Waiting(NamedTuple):
    """An access that was read by a keeper and not answered."""

    number: int
    inode: int
    end: int
    since: float  # seconds of the monotonic clock, which all processes share
    thread: int  # that waits; 0 if it is not seen from here


class Journal:
    """Slots for the numbers below *capacity*, in the memory behind a descriptor, which stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self.capacity = len(self._map) // _SLOT.size - 1
        # Written at once, so that nobody sees half of it.
        self._turn = memoryview(self._map)[self.capacity * _SLOT.size :][_TURN].cast("d")

    @property
    def turned(self) -> float:
        """When its keeper last looked at what had come, in seconds of the monotonic clock; 0: never."""
        return self._turn[0]

    def turn(self, at: float) -> None:
        """Its keeper looks at what has come; or, if *at* is still to come, will not before then."""
        self._turn[0] = at

    def note(self, waiting: Waiting) -> None:
        """The access waits; its number is below the capacity."""
        place = waiting.number * _SLOT.size
        # The inode, which says whether the slot is taken, last: a torn slot is an empty one.
        packed = _SLOT.pack(*waiting[1:])
        self._map[place + 8 : place + _SLOT.size] = packed[8:]
        self._map[place : place + 8] = packed[:8]

    def clear(self, number: int) -> None:
        """The access was answered; also of one that was never noted."""
        if number < self.capacity:
            place = number * _SLOT.size
            self._map[place : place + _SLOT.size] = _EMPTY

    def waiting(self) -> Iterator[Waiting]:
        """All that wait."""
        for number, slot in enumerate(_SLOT.iter_unpack(self._map[: self.capacity * _SLOT.size])):
            if slot[0]:
                yield Waiting(number, *slot)


def new_journal(capacity: int) -> int:
    """A descriptor of memory for an empty journal; *capacity* is bounded by `MOST_NUMBERS`."""
    descriptor = os.memfd_create("journal", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, (min(capacity, MOST_NUMBERS) + 1) * _SLOT.size)
    return descriptor
