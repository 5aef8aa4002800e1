"""What is there, and what to fetch next when nobody waits: the hot list in order, then what follows the
latest misses, then the rest.

Pure bookkeeping over window numbers: no thread, no lock, no file. The scheduler calls it under its lock and
owns when to ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from chunk_store.window_index import WindowIndex

FOLLOW_WINDOWS = 8  # about 8 MiB of file bytes: a package's directory or a large library, not the whole layer
FOLLOWED_MISSES = 16
STREAM_STEPS = 3  # how often a reader waited for a later window of a stretch until he is believed to read on
# Compressed bytes of no wanted window worth reading over: 2.6 ms at 200 Mbit/s, against a round trip.
GAP = 64 << 10


class State(IntEnum):
    """Where a window stands for this attachment."""

    ABSENT = 0
    IN_FLIGHT = 1
    PRESENT = 2
    SET_ASIDE = 3  # filled by another process, or it cannot be said why not: for readers and a later pass
    BROKEN = 4  # its bytes are wrong at the source: left to readers
    EVICTED = 5  # went for something that needed the room more, so it is left to readers


class Amount(NamedTuple):
    """So many windows, and their uncompressed bytes."""

    windows: int
    bytes: int

    def plus(self, windows: int, size: int) -> Amount:
        """With further windows of *size* bytes."""
        return Amount(self.windows + windows, self.bytes + size)


@dataclass(slots=True)
class _Stretch:
    """What follows a miss at *origin*: windows before *end*; those before *next* were asked for."""

    origin: int
    next: int
    end: int
    missed: int  # what a reader waited for latest
    steps: int  # how often that was further ahead, without once going back


class Plan:
    """States of all windows, and the order in which absent ones are wanted.

    A window that an image has several times counts once in `whole` and `present`.
    """

    def __init__(self, index: WindowIndex, hot: Iterable[int]) -> None:
        self._index = index
        self.states = bytearray(len(index))
        self._hot = list(dict.fromkeys(index.original[number] for number in hot))
        self._is_hot = bytearray(len(index))
        for number in self._hot:
            self._is_hot[number] = 1
        self._next_hot = 0
        self._follow: list[_Stretch] = []  # the latest is last
        self._next_rest = 0
        lengths = [index[number].length for number in index.distinct()]
        self.whole = Amount(len(lengths), sum(lengths))
        self.present = Amount(0, 0)

    @property
    def complete(self) -> bool:
        """Whether every window is present."""
        return self.present == self.whole

    @property
    def broken(self) -> int:
        """How many windows are wrong at their source."""
        return self.states.count(State.BROKEN)

    def mark_present(self, number: int) -> None:
        """*number*, which was not present, is."""
        self.states[number] = State.PRESENT
        self.present = self.present.plus(1, self._index[number].length)

    def missed(self, number: int) -> None:
        """A reader had to wait for *number*: what comes after it is wanted before the rest."""
        before, steps = self._along(number), 0
        if before is not None:
            steps = before.steps = before.steps + 1 if number > before.missed else 0
            before.missed = number
        if before is None or number >= before.next:
            self._follow.append(_Stretch(number, number + 1, number + 1 + FOLLOW_WINDOWS, number, steps))
            del self._follow[:-FOLLOWED_MISSES]

    def touched(self, number: int) -> None:
        """A reader first came to *number*: a stretch it lies in becomes the latest and stays ahead."""
        self._along(number)

    def tail(self, number: int, compressed: int) -> list[int]:
        """*number* and the absent windows right behind it that together stay within *compressed* bytes."""
        return self._run(number, compressed, hot_only=False)

    @property
    def hot_left(self) -> bool:
        """Whether some of the hot list may still have to be fetched."""
        return self._next_hot < len(self._hot)

    def next_hot(self, compressed: int) -> list[int]:
        """The next run of the hot list, neighbours merged: at most *compressed* bytes, or one window."""
        while self._next_hot < len(self._hot):
            number = self._hot[self._next_hot]
            if self.states[number] == State.ABSENT:
                return self._run(number, compressed, hot_only=True)
            self._next_hot += 1
        return []

    def next_streamed(self, compressed: int) -> list[int]:
        """The next run behind a reader who takes one window after another; empty when there is none."""
        latest = self._follow[-1] if self._follow else None
        return self._follow_up(latest, compressed) if latest and latest.steps >= STREAM_STEPS else []

    def next_background(self, compressed: int) -> list[int]:
        """The next run that follows a miss, else the next in blob order; empty when nothing is absent."""
        for stretch in reversed(self._follow):
            if run := self._follow_up(stretch, compressed):
                return run
        for number in range(self._next_rest, len(self._index)):
            if self.states[number] == State.ABSENT and self._index.original[number] == number:
                self._next_rest = number
                return self._run(number, compressed, hot_only=False)
        self._next_rest = len(self._index)
        return []

    def absent_again(self, number: int) -> None:
        """*number*, once present, in flight or set aside, is to be fetched after all."""
        if self.states[number] == State.PRESENT:
            self.present = self.present.plus(-1, -self._index[number].length)
        self.states[number] = State.ABSENT
        self._next_rest = min(self._next_rest, number)
        if self._is_hot[number]:
            self._next_hot = 0

    def evicted(self, number: int) -> None:
        """*number*, which was present, went to make room."""
        self.present = self.present.plus(-1, -self._index[number].length)
        self.states[number] = State.EVICTED

    def retry_set_aside(self) -> None:
        """Make windows that were set aside wanted again."""
        at = self.states.find(State.SET_ASIDE)
        while at >= 0:
            self.absent_again(at)
            at = self.states.find(State.SET_ASIDE, at + 1)

    def _along(self, number: int) -> _Stretch | None:
        """The latest stretch that *number* lies in, which is the very latest now and goes on from there."""
        for place in range(len(self._follow) - 1, -1, -1):
            stretch = self._follow[place]
            if stretch.origin <= number < stretch.end:
                stretch.end = max(stretch.end, number + 1 + FOLLOW_WINDOWS)
                self._follow.append(self._follow.pop(place))
                return stretch
        return None

    def _follow_up(self, stretch: _Stretch, compressed: int) -> list[int]:
        for number in range(stretch.next, min(stretch.end, len(self._index))):
            original = self._index.original[number]
            if self.states[original] == State.ABSENT:
                stretch.next = number
                return self._run(original, compressed, hot_only=False)
        stretch.next = max(stretch.next, stretch.end)
        return []

    def _run(self, number: int, compressed: int, *, hot_only: bool) -> list[int]:
        run = [number]
        start = self._index[number].compressed_start
        while self._index.adjacent(run[-1], GAP):
            following = run[-1] + 1
            if self.states[following] != State.ABSENT or self._index.original[following] != following:
                break
            if hot_only and not self._is_hot[following]:
                break
            if self._index[following].compressed_end - start > compressed:
                break
            run.append(following)
        return run
