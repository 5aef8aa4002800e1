"""Moves completed windows from "in the page cache" to "recorded as on the disk".

One thread per open store, started by the first completed window: every half minute with news, and when
asked, it has the file system synced and what was complete before the sync appended to the record. Nobody
waits for it except `close`, and not for long: a child does the work, because a process cannot end while one
of its threads is inside syncfs, which on a busy disk takes as long as everybody's writes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from chunk_store import sums
from chunk_store.window_file import WindowDirectory

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
        # One checkpoint at a time; taken before `_lock`, held across the sync.
        self._turn = threading.Lock()
        self._asked = threading.Event()
        self._closed = False

    def note(self, completed: sums.Sum) -> None:
        """Remember a window that was just completed."""
        with self._lock:
            self._news.append(completed)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
                self._thread.start()

    def ask(self) -> None:
        """Have a checkpoint made soon, without waiting for it."""
        self._asked.set()

    def make(self, *, elsewhere: bool = False) -> int:
        """Sync, then record; return how many windows were recorded.

        A failure is logged; windows that did not reach the disk are emptied. *elsewhere* has a child do it,
        and counts all as recorded unless it failed.
        """
        with self._turn:
            with self._lock:
                news, self._news = self._news, []
            if not news or self._file_system < 0:
                return 0
            recorded = self._record_elsewhere(news) if elsewhere else self._record(news)
            if recorded is None:
                with self._lock:
                    self._news[:0] = news
            return recorded or 0

    def flush(self, patience: float) -> None:
        """Make a checkpoint now; wait for it at most *patience* seconds, after which it goes on by itself."""
        self._behind(lambda: self.make(elsewhere=True), patience)

    def close(self, patience: float) -> None:
        """Make the last checkpoint; what it does not reach in time is recorded after we are gone."""
        with self._lock:
            self._closed = True
        self._asked.set()
        self._behind(self._make_last, patience)

    def _behind(self, work: Callable[[], object], patience: float) -> None:
        worker = threading.Thread(target=work, name="checkpoint", daemon=True)
        worker.start()
        worker.join(patience)

    def _make_last(self) -> None:
        self.make(elsewhere=True)
        with self._turn:
            held, self._file_system = self._file_system, -1
        if held >= 0:
            os.close(held)

    def _run(self) -> None:
        while not self._closed:
            self._asked.wait(self._interval)
            self._asked.clear()
            if not self._closed:
                self.make(elsewhere=True)

    def _record_elsewhere(self, news: Sequence[sums.Sum]) -> int | None:
        child = os.fork()
        if not child:
            status = 1
            try:
                # At once: what we serve and hold would stay alive with these.
                os.closerange(3, self._file_system)
                os.closerange(max(3, self._file_system + 1), os.sysconf("SC_OPEN_MAX"))
                status = 0 if self._record(news) is not None else 1
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        return len(news) if ended == 0 else None

    def _record(self, news: Sequence[sums.Sum]) -> int | None:
        """Sync and append; None if nothing could be appended and it should be tried again."""
        try:
            sync_filesystem(self._file_system)
        except OSError as error:
            log.error("store %s: write-back failed (%s); checking what was filled since", self._root, error)
            news = [completed for completed in news if self._reached_disk(completed)]
        try:
            sums.append(self._root, news)
        except OSError as error:
            log.warning("store %s: cannot record %d windows: %s; trying later", self._root, len(news), error)
            return None
        return len(news)

    def _reached_disk(self, completed: sums.Sum) -> bool:
        """Whether the window's own write-back went well; if not, the window is emptied, because its pages may
        be lost already.

        The error that `syncfs` reported is still unseen by the file itself, so its `fsync` tells which one it
        was.
        """
        try:
            window = WindowDirectory(self._root).try_lock(completed.window_id, completed.length)
        except OSError:
            return False
        if window is None:
            return False
        try:
            return window.sync_or_empty()
        finally:
            window.close()
