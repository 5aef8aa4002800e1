"""The gate: accesses to absent windows come in, wait, and go on when their bytes are there, or with an error.

Knows who waits for how much of which window, notes it in the journal, and gives every access exactly one
answer. Who fetches the bytes is told through `need`, and tells through `have` and `lost`. Used by one
thread.
"""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from erofs_fs import fanotify
from erofs_fs.journal import Journal, Waiting
from erofs_fs.pids import lock_owners
from erofs_fs.refused import Refused
from erofs_fs.syscalls import is_thread_of
from erofs_fs.watched import Watched, WatchedWindows

READER_SECONDS: Final = 25.0  # a reader gets its bytes within this, or an error
_OWNER_SECONDS: Final = 0.25  # who waits this long may be filling the very window: see `_release_owners`
_BATCH: Final = 64  # events read at once
_QUEUE_SHARE: Final = 0.4  # of the limit: so long nobody gets an error for want of room for who came later
_FEW: Final = 8  # events read at once when there is no room, of descriptors kept for other things
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Gate:
    """Reads the events of *group* and answers them.

    Parameters:
        most: accesses that may wait here at once; further ones wait in the kernel's queue for a while, and
            then get the place of those who have waited for the longest.
        ours: whether a thread is one that may not be made to wait; not asked of those not seen from here.
        need: called when the first so many bytes of a window are waited for.
        late: called when they did not come in time.
        say: called with a line for people.
        reader_seconds: after which whoever still waits gets an error.
    """

    def __init__(
        self,
        group: int,
        journal: Journal,
        windows: WatchedWindows,
        *,
        most: int,
        ours: Callable[[int], bool],
        need: Callable[[Watched, int], None],
        late: Callable[[Watched, int], None],
        say: Callable[[str], None],
        reader_seconds: float = READER_SECONDS,
    ) -> None:
        self._group = group
        self._journal = journal
        self._windows = windows
        self._most = min(most, journal.capacity)
        self._ours = ours
        self._need = need
        self._late = late
        self._say = say
        self._reader_seconds = reader_seconds
        self._queue_seconds = _QUEUE_SHARE * reader_seconds
        self._waiting: dict[int, Waiting] = {}  # by number
        self._order: list[tuple[float, int]] = []  # since when each of them waits, and its number
        self._owners_at = 0.0
        # Who waits in the kernel's queue came then or later; None: nobody does, or has only just come.
        self._full_since: float | None = None
        self._is_crowded = False  # for so long that who comes gets the place of the oldest
        self._queued = 0  # who waited in the kernel's queue when that began, and does still
        self._refused = Refused(lambda: time.monotonic())
        self.counts = dict.fromkeys(("events", "at_once", "waited", "refused", "own"), 0)
        self.waited_seconds = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many more may wait."""
        return self._most - len(self._waiting)

    @property
    def is_open(self) -> bool:
        """Whether `read` is to be called when there are events."""
        return self.room > 0 or self._is_crowded

    @property
    def oldest(self) -> float | None:
        """Since when somebody waits, in seconds of the monotonic clock."""
        return self._order[0][0] if self._order else None

    def waited_for(self) -> Iterator[tuple[Watched, int]]:
        """(window, bytes from its beginning) of each access that waits."""
        for _, number in self._order:
            waiting = self._waiting[number]
            window = self._windows.of_inode(waiting.inode)
            if window is not None:
                yield window, waiting.end

    def read(self) -> None:
        """Take in what has come since.

        Raises:
            OSError, QueueOverflow: the group does not work (any more).
        """
        if not self.is_open:
            return
        most = min(_BATCH, self.room) if self.room > 0 else _FEW
        taken = self._take_in(most)
        self._queued -= taken
        if taken < most or (self._is_crowded and self._queued <= 0):
            self._full_since = None
        elif self.room <= 0 and not self._is_crowded and self._full_since is None:
            self._full_since = time.monotonic()
        if taken < most and self.room > 0:
            self._is_crowded = False

    def resume(self, left: Iterable[Waiting]) -> None:
        """Let *left*, whom another keeper has read and not answered, go on waiting; and answer those of whom
        nothing is known. Before the first `read`, and once the windows are known.

        Who is in the kernel's queue came after that keeper last looked, and has waited since then: of a
        keeper that was stopped for a while nobody else knows. If that was long ago, because nothing
        happened, they get half of the time.
        """
        for waiting in left:
            window = self._windows.of_inode(waiting.inode)
            if window is None:
                self._answer(waiting.number, yes=False)
            else:
                self._admit(window, waiting)
        now = time.monotonic()
        looked = min(now, max(self._journal.turned, now - self._reader_seconds / 2))
        self._full_since = looked if self.room > 0 else now
        for number in range(self._journal.capacity):
            if number not in self._waiting:
                fanotify.deny(self._group, number)  # the kernel asks again, mostly

    def have(self, window_id: str, end: int) -> None:
        """The first *end* bytes of the window are verified and in its file."""
        window = self._windows.of_id(window_id)
        if window is None:
            return
        if end >= window.length:
            if self._windows.size(window) != window.length:
                # Cut or taken away since it was filled.
                self.lost(window_id)
                return
            self._windows.complete(window)
        window.there = max(window.there, min(end, window.length))
        now = time.monotonic()
        for number, needed in list(window.waiting.items()):
            if needed.stop <= window.there:
                self._dismiss(window, number, now, yes=True)

    def lost(self, window_id: str, until: int = 0) -> None:
        """The window cannot be filled for those who have waited for it since *until* (nanoseconds of the
        monotonic clock; 0: now) or earlier: they get an error.
        """
        window = self._windows.of_id(window_id)
        if window is not None:
            self.refuse(window, until / 1e9 if until else None)

    def refuse(self, window: Watched, until: float | None = None) -> None:
        """Whoever has waited for the window since *until* (None: now) or earlier gets an error, also if the
        kernel asks again for the same.
        """
        now = time.monotonic()
        for number in list(window.waiting):
            if until is None or self._waiting[number].since <= until:
                self._refuse(window, number, now)

    def due(self) -> float | None:
        """When `overdue` has something to do, in seconds of the monotonic clock; None: after an event."""
        dues = []
        if self._full_since is not None and not self._is_crowded:
            dues.append(self._full_since + self._queue_seconds)
        oldest = self.oldest
        if oldest is not None:
            dues += [oldest + self._reader_seconds, max(self._owners_at, oldest + _OWNER_SECONDS)]
        return min(dues, default=None)

    def overdue(self, now: float) -> None:
        """See to those who have waited for long."""
        until = now - self._reader_seconds
        while self._order and self._order[0][0] <= until:
            oldest = self._waiting[self._order[0][1]]
            window = self._windows.of_inode(oldest.inode)
            if window is None:
                self._refuse_oldest(now)
                continue
            if self._has_become_whole(window):
                self.have(window.id, window.length)
                continue
            self._late(window, oldest.end)
            # Who came later has time left, and the registry may be back by then.
            self.refuse(window, until)
        if self._waiting and now >= self._owners_at:
            self._release_owners(now)
        if self._full_since is None or self._is_crowded or now < self._full_since + self._queue_seconds:
            return
        self._queued = fanotify.queued(self._group)
        if self._queued and self.room > 0:
            return  # a successor's, which has not read yet
        if self._queued:
            # They have waited for longer than anybody knows, and so would who is refused and asked for again.
            self._is_crowded = True
            self._say(f"more than {self._most} reads wait: the oldest get an error")
        else:
            self._full_since = now if self.room <= 0 else None

    def _take_in(self, most: int) -> int:
        """Take in at most *most* events; how many there were."""
        try:
            events = fanotify.read_events(self._group, most)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._say(f"an access was refused: {error.strerror}")
            return 0
        for event in events:
            self._take(event)
        return len(events)

    def _take(self, event: fanotify.Event) -> None:
        self.counts["events"] += 1
        window = self._windows.of_inode(os.fstat(event.number).st_ino)
        if event.thread and self._ours(event.thread):
            self.counts["own"] += 1  # it would wait for itself
            self._answer(event.number, yes=True)
        elif event.offset == event.end:
            self._answer(event.number, yes=True)  # who cuts a file waits for no bytes of it
        elif window is None:
            self._answer(event.number, yes=False)
        elif min(event.end, window.length) <= window.there or self._has_become_whole(window):
            self.counts["at_once"] += 1
            self._answer(event.number, yes=True)
        elif event.number >= self._journal.capacity:
            self._say("an access was refused: too many descriptors are open")
            self._answer(event.number, yes=False)
        else:
            self._let_wait(window, event)

    def _let_wait(self, window: Watched, event: fanotify.Event) -> None:
        """Unless it has waited already; if only part of that is left, it counts as having begun earlier."""
        now = time.monotonic()
        since = now if self._full_since is None else self._full_since
        end = min(event.end, window.length)
        until = self._refused.until(window.id, event.thread, event.offset, end)
        if until is not None:
            if until <= now:
                self._answer(event.number, yes=False)
                return
            since = min(since, until - self._reader_seconds)
        if self.room <= 0:
            self._refuse_oldest(now)
        self.counts["waited"] += 1
        waiting = Waiting(event.number, window.inode, end, since, event.thread)
        self._journal.note(waiting)
        self._admit(window, waiting, event.offset)

    def _has_become_whole(self, window: Watched) -> bool:
        """Whether somebody has completed it who did not tell: a server of the other driver, or a filler that
        was killed before it could.
        """
        if self._windows.size(window) != window.length:
            return False
        self._windows.complete(window)
        return True

    def _admit(self, window: Watched, waiting: Waiting, start: int = 0) -> None:
        self._waiting[waiting.number] = waiting
        insort(self._order, (waiting.since, waiting.number))
        window.waiting[waiting.number] = range(start, waiting.end)
        self._need(window, waiting.end)

    def _refuse_oldest(self, now: float) -> None:
        oldest = self._waiting[self._order[0][1]]
        window = self._windows.of_inode(oldest.inode)
        if window is not None:
            self._refuse(window, oldest.number, now)
        else:
            self._forget(oldest.number)
            self._answer(oldest.number, yes=False)

    def _refuse(self, window: Watched, number: int, now: float) -> None:
        waiting, needed = self._waiting[number], window.waiting[number]
        self.counts["refused"] += 1
        self._refused.note(window.id, waiting.thread, needed.start, needed.stop, waiting.since)
        self._dismiss(window, number, now, yes=False)

    def _dismiss(self, window: Watched, number: int, now: float, *, yes: bool) -> None:
        del window.waiting[number]
        waiting = self._forget(number)
        self.waited_seconds += now - waiting.since
        if yes:
            self._refused.served(waiting.thread)
        self._answer(number, yes=yes)

    def _forget(self, number: int) -> Waiting:
        waiting = self._waiting.pop(number)
        del self._order[bisect_left(self._order, (waiting.since, number))]
        return waiting

    def _answer(self, number: int, *, yes: bool) -> None:
        (fanotify.allow if yes else fanotify.deny)(self._group, number)
        # Before its number can come again.
        self._journal.clear(number)
        with suppress(OSError):
            os.close(number)

    def _release_owners(self, now: float) -> None:
        """Let those go on who hold the lock of the very window they wait for: it is they who fill it.

        All of ours open windows through the door. This is for a process that had opened one before it could
        know of this keeper.
        """
        self._owners_at = now + _OWNER_SECONDS
        slow = [waiting for waiting in self._waiting.values() if now - waiting.since >= _OWNER_SECONDS]
        inodes = {waiting.inode for waiting in slow if waiting.thread}
        owners = lock_owners(self._windows.device, inodes) if inodes else {}
        for waiting in slow:
            window = self._windows.of_inode(waiting.inode)
            owner = owners.get(waiting.inode)
            if window is not None and owner and waiting.thread and is_thread_of(owner, waiting.thread):
                self.counts["own"] += 1
                self._dismiss(window, waiting.number, now, yes=True)
