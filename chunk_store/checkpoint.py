"""Moves completed windows from "in the page cache" to "recorded as on the disk".

One thread per open store, started by the first completed window: every half minute with news it has the file
system synced and what was complete before the sync appended to the record. Nobody waits for it except
`close`, and not for long: a child does the work, because a process cannot end while one of its threads is
inside syncfs, which on a busy disk takes as long as everybody's writes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from chunk_store import sums
from chunk_store.free_room import FULL_ERRNOS
from chunk_store.write_back import Fate, empty_lost_of_others, fates

INTERVAL = (
    30.0  # seconds of filling that a power cut may cost; the kernel's own write-back takes as long by default
)

log = logging.getLogger(__name__)


def sync_filesystem(descriptor: int) -> None:
    """Write back everything of the file system that *descriptor* belongs to.

    Raises:
        OSError: some of it could not be written since the last call with this descriptor, or since it was
        opened.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _Answer(NamedTuple):
    """What a checkpoint found: whether the disk did not take something, what became of each window."""

    failed: bool
    fates: Sequence[Fate]


class Checkpoints:
    """Collects what was completed and records it. Thread-safe.

    Made before the first window is written; closed by its owner.

    Raises:
        OSError: *root* cannot be opened.
    """

    def __init__(self, root: Path, interval: float = INTERVAL) -> None:
        self._root = root
        # For as long as we write, and not opened anew for each sync: the kernel tells of a failed write-back
        # once per open file, and one that is opened after anybody has been told never hears of it.
        self._file_system = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._interval = interval
        # Protects `_news` and `_thread`. A leaf: only list and thread bookkeeping happens under it.
        self._lock = threading.Lock()
        self._news: list[sums.Sum] = []
        self._thread: threading.Thread | None = None
        # One checkpoint at a time; taken before `_lock`, held across the sync. Protects the two below, too.
        self._turn = threading.Lock()
        # The kernel has told of a lost page, and does not tell again. It may be one of a window that was
        # being filled then, so from now on each window is asked for on its own.
        self._doubtful = False
        self._lost: set[str] = set()  # windows of the news that could not be emptied
        self._closed = threading.Event()

    def note(self, completed: sums.Sum) -> None:
        """Remember a window that was just completed."""
        with self._lock:
            self._news.append(completed)
            if self._thread is None and not self._closed.is_set():
                thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
                # At the system's limit of threads: the next window that is completed tries again.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread

    def make(self, *, elsewhere: bool = False) -> int:
        """Sync, then record; return how many windows were recorded. *elsewhere* has a child do it.

        A failure is logged; windows that did not reach the disk are emptied, and what could not be looked at
        is left for the next time.
        """
        with self._turn:
            with self._lock:
                news = list(self._news)
            if not news or self._file_system < 0:
                return 0
            try:
                answer = self._record_elsewhere(news) if elsewhere else self._record(news)
            except OSError as error:
                # No process or no memory to be had: the news stays, and with it the thread.
                log.warning("store %s: cannot make a checkpoint: %s; trying later", self._root, error)
                return 0
            if answer is None:
                self._doubtful = True
                return 0
            self._doubtful |= answer.failed
            found = list(zip(news, answer.fates, strict=True))
            self._lost = {one.window_id for one, fate in found if fate is Fate.LOST}
            with self._lock:
                self._news[: len(news)] = [
                    one for one, fate in found if fate in (Fate.UNDECIDED, Fate.LOST)
                ]
            return sum(fate is Fate.ON_DISK for fate in answer.fates)

    def flush(self, patience: float) -> None:
        """Make a checkpoint now; wait for it at most *patience* seconds, after which it goes on by itself."""
        self._behind(lambda: self.make(elsewhere=True), patience)

    def close(self, patience: float) -> None:
        """Make the last checkpoint; what it does not reach in time is recorded after we are gone."""
        with self._lock:
            self._closed.set()
        self._behind(self._make_last, patience)

    def _behind(self, work: Callable[[], object], patience: float) -> None:
        worker = threading.Thread(target=work, name="checkpoint", daemon=True)
        try:
            worker.start()
        except RuntimeError:
            work()  # at the system's limit of threads: rather late than never
        else:
            worker.join(patience)

    def _make_last(self) -> None:
        self.make(elsewhere=True)
        with self._turn:
            held, self._file_system = self._file_system, -1
        if held >= 0:
            os.close(held)

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            self.make(elsewhere=True)

    def _record_elsewhere(self, news: Sequence[sums.Sum]) -> _Answer | None:
        """None: the child has died, and with it perhaps what the kernel told it."""
        reading, writing = os.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if not child:
            try:
                # At once: what we serve and hold would stay alive with these.
                _close_all_but(self._file_system, writing)
                answer = self._record(news)
                os.write(writing, bytes([answer.failed, *answer.fates]))
            finally:
                os._exit(0)
        os.close(writing)
        told = b""
        with open(reading, "rb", buffering=0) as answers:  # noqa: PTH123 - a descriptor
            # Not to the end of it: somebody else's child may hold the other side, too.
            while len(told) <= len(news) and (more := answers.read(1 + len(news) - len(told))):
                told += more
        os.waitpid(child, 0)
        if len(told) <= len(news):
            return None
        return _Answer(bool(told[0]), [Fate(fate) for fate in told[1:]])

    def _record(self, news: Sequence[sums.Sum]) -> _Answer:
        """Sync and append."""
        failed = False
        try:
            sync_filesystem(self._file_system)
        except OSError as error:
            failed = True
            log.error("store %s: write-back failed (%s); asking for what was filled since", self._root, error)
        found = [Fate.ON_DISK] * len(news)
        if failed or self._doubtful:
            found = fates(self._root, news, self._lost)
        emptied = found.count(Fate.EMPTIED)
        if failed:
            emptied += self._ask_others({one.window_id for one in news})
        if lost := found.count(Fate.LOST):
            log.error("store %s: %d windows did not reach the disk and cannot be emptied", self._root, lost)
        if emptied:
            log.error("store %s: %d windows did not reach the disk and are absent again", self._root, emptied)
        there = [one for one, fate in zip(news, found, strict=True) if fate is Fate.ON_DISK]
        try:
            sums.append(self._root, there)
        except OSError as error:
            # A full disk is told by whoever cannot keep a window; this would tell it at each attempt.
            level = logging.DEBUG if error.errno in FULL_ERRNOS else logging.WARNING
            why = error.strerror or error
            log.log(level, "store %s: cannot record %d windows: %s", self._root, len(there), why)
            found = [Fate.UNDECIDED if fate is Fate.ON_DISK else fate for fate in found]
        return _Answer(failed, found)

    def _ask_others(self, ours: set[str]) -> int:
        try:
            return empty_lost_of_others(self._root, ours)
        except OSError as error:
            log.warning("store %s: cannot look for other windows that are lost: %s", self._root, error)
            return 0


def _close_all_but(*kept: int) -> None:
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = max(begin, descriptor + 1)
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))
