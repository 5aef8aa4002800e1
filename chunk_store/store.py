"""The chunk store: one directory of windows, shared by images, mounts and processes.

`ChunkStore` is the directory; `Attachment` is one image's blobs bound to it and to the remote they come from,
and the only way to read bytes. Here the pieces are wired together and a read is served; how windows lie on
disk, are fetched, scheduled and recorded is in the modules beside it, and in docs/store.md together with the
order of all locks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from chunk_store.attached import record_use
from chunk_store.boot import current_boot, open_store
from chunk_store.checkpoint import Checkpoints
from chunk_store.counters import Counters, LatenciesNow, Progress
from chunk_store.errors import ChunkUnavailable, StoreError, StoreFull
from chunk_store.fill import Listener
from chunk_store.limits import Limits
from chunk_store.local_chunks import LocalChunks
from chunk_store.memory_windows import MemoryWindows
from chunk_store.open_windows import OpenWindows
from chunk_store.plan import Priority
from chunk_store.range_fetch import RangeFetch
from chunk_store.remote import BlobSource, is_temporary
from chunk_store.scheduler import Scheduler
from chunk_store.waiting import Waiting
from chunk_store.window_file import WindowDirectory
from chunk_store.window_index import WindowIndex
from rafs.blob_meta import BlobMeta

if TYPE_CHECKING:
    from chunk_store.quota import Quota

_FILE_TRIES = (
    3  # of one read: a file may be found damaged, repaired, and damaged again; then it is left alone
)
_LEAVE_SECONDS = 0.4  # `close` waits this long for fetching threads, and this long again for the checkpoint

log = logging.getLogger(__name__)


class ChunkStore:
    """A store below *root*, which is created if need be. Thread-safe; open it after forking, not before.

    Parameters:
        limits: time, connections and memory; see `Limits`.
        boot_id: the id of this boot, which decides whether windows written earlier are to be trusted;
            default: the kernel's.

    Raises:
        StoreUnusable: the directory cannot be created, locked or checked.
    """

    def __init__(self, root: Path, *, limits: Limits | None = None, boot_id: str | None = None) -> None:
        self.root = root
        self.limits = limits or Limits()
        self._lock_fd, self.recovery = open_store(root, boot_id or current_boot())
        self.directory = WindowDirectory(root, only=self.recovery.only if self.recovery else None)
        self.open_windows = OpenWindows(self.directory)
        self.memory = MemoryWindows(self.limits.memory_bytes)
        self.checkpoints = Checkpoints(root)
        self.waiting = Waiting()
        self.quota: Quota | None = None
        self.bound(self.limits.cache_bytes)
        # Protects `_attachments` and `_lock_fd`. A leaf.
        self._lock = threading.Lock()
        self._attachments: set[Attachment] = set()

    def attach(
        self,
        blobs: Sequence[BlobMeta],
        source: BlobSource,
        *,
        hot: Sequence[tuple[int, int, int]] = (),
        background: bool = True,
        on_present: Callable[[str], None] | None = None,
    ) -> Attachment:
        """Bind *blobs* to this store and to *source*, which stays the caller's and must outlive the
        attachment.

        Parameters:
            hot: (position in *blobs*, offset, size) in the blobs' uncompressed address spaces, in the order
                in which they will be needed. Fetching them starts at once.
            background: fetch everything else behind that; False leaves it to readers until
                `start_background`.
            on_present: called with the id of each window that becomes complete from now on, whoever filled
                it, by any thread and under no lock.

        Raises:
            RangeOutside: *hot* names bytes that no window holds.
        """
        attachment = Attachment(self, blobs, source, hot, background=background, on_present=on_present)
        with self._lock:
            self._attachments.add(attachment)
        return attachment

    def bound(self, cache_bytes: int | None) -> None:
        """Let windows occupy at most *cache_bytes* from now on; None changes nothing.

        Holds for attachments that are made later, and for earlier ones if there was a limit before.
        """
        if cache_bytes is None:
            return
        if self.quota is not None:
            self.quota.limit = cache_bytes
            return
        from chunk_store.quota import Quota  # here, because few stores have one and starts are to be fast

        self.quota = Quota(self.root, self.directory, self.open_windows, cache_bytes)

    def close(self) -> None:
        """Close every attachment, record what was completed, let the store go. Takes a second at most."""
        with self._lock:
            attachments = list(self._attachments)
        for attachment in attachments:
            attachment.close()
        self.checkpoints.close(_LEAVE_SECONDS)
        self.open_windows.close()
        self.directory.close()
        with self._lock:
            fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def forget(self, attachment: Attachment) -> None:
        """*attachment* was closed."""
        with self._lock:
            self._attachments.discard(attachment)
            last = not self._attachments
        if last:
            self.checkpoints.flush(_LEAVE_SECONDS)

    def __enter__(self) -> ChunkStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Attachment:
    """One image's blobs, readable as if they were local. Made by `ChunkStore.attach`; thread-safe."""

    def __init__(
        self,
        store: ChunkStore,
        blobs: Sequence[BlobMeta],
        source: BlobSource,
        hot: Sequence[tuple[int, int, int]],
        *,
        background: bool,
        on_present: Callable[[str], None] | None,
    ) -> None:
        self._store = store
        self._index = WindowIndex(blobs)
        self._counters = Counters(len(self._index), [blob.uncompressed_size for blob in blobs])
        self._stopping = threading.Event()
        self._use = record_use(store.root, (self._index[number].id for number in self._index.distinct()))
        self._scheduler = Scheduler(
            self._index,
            RangeFetch(
                self._index,
                store.directory,
                LocalChunks(store.root, self._index, store.directory),
                source,
                store.limits,
                self._counters,
                self._stopping,
                store.quota,
            ),
            self._counters,
            store.memory,
            store.limits,
            self._stopping,
            store.waiting,
            present=[number for number in self._index.distinct() if self._is_there(number)],
            hot=[number for place in hot for number, _, _ in self._index.pieces(*place)],
            background=background,
            completed=store.checkpoints.note,
            on_present=None if on_present is None else lambda number: on_present(self._index[number].id),
        )

    @property
    def complete(self) -> bool:
        """Whether every window is local."""
        return self._scheduler.complete

    def window_numbers(self) -> dict[str, int]:
        """The numbers of all windows, which `when_local` takes, by their ids."""
        return {self._index[number].id: number for number in self._index.distinct()}

    def read(self, blob_index: int, offset: int, size: int) -> bytes:
        """Return exactly *size* verified bytes at *offset* of the blob's uncompressed address space; waits
        for what is not local.

        A range inside the verified prefix of a window that is being filled is answered at once.

        Raises:
            RangeOutside: the blob has no such bytes.
            ChunkUnavailable: they could not be fetched within `Limits.read_seconds`, or the attachment was
            closed.
            ChunkCorrupt: the remote's bytes are wrong, also after fetching them again.
        """
        pieces = list(self._index.pieces(blob_index, offset, size))
        self._counters.touched(blob_index, offset, size)
        deadline = time.monotonic() + self._store.limits.read_seconds
        originals = [self._index.original[number] for number, _, _ in pieces]
        for number in originals:
            if self._counters.touched_window(number):
                self._scheduler.touched(number)
            if len(originals) > 1 and not self._scheduler.is_present(number):
                self._scheduler.want(number)
        found = [
            self._read_window(number, begin, end, deadline)
            for number, (_, begin, end) in zip(originals, pieces, strict=True)
        ]
        return found[0] if len(found) == 1 else b"".join(found)

    def when_local(self, number: int, end: int, listener: Listener) -> None:
        """Have *listener* called once: with None when the first *end* bytes of window *number* are verified
        and in its file, with an error if they could not be brought there.

        For those who read the file by other ways than `read`. Fetches as a read does and waits for nothing;
        *listener* is called by any thread, perhaps before the return, and must neither wait nor raise.
        """
        self._when_local(number, end, listener, time.monotonic())

    def _when_local(self, number: int, end: int, listener: Listener, since: float) -> None:
        window, original = self._index[number], self._index.original[number]
        if self._counters.touched_window(original):
            self._scheduler.touched(original)
        try:
            if self._scheduler.is_present(original):
                if self._store.directory.size(window.id) == window.length:
                    listener(None)
                    return
                self._scheduler.lost(original)
            fill = self._scheduler.want(original, needs_file=True)
            if fill is not None:
                joined = fill.began < since

                def told(error: StoreError | None) -> None:
                    if joined and _was_out_of_time(error) and self._has_time(since):
                        self._when_local(number, end, listener, since)
                    else:
                        listener(error)

                fill.tell(end, told)
            elif self._store.directory.size(window.id) == window.length:
                listener(None)
            else:
                listener(StoreFull(f"window {window.id} is in memory, because its file takes no more"))
        except StoreError as error:
            listener(error)

    def progress(self) -> Progress:
        """What is local, what it cost to fetch, what was touched, at this moment."""
        counts, awaited = self._scheduler.by_class()
        present, whole = self._scheduler.totals()
        touched_windows, touched_bytes = self._counters.touched_totals()
        return Progress(
            windows_total=whole.windows,
            windows_present=present.windows,
            bytes_total=whole.bytes,
            bytes_present=present.bytes,
            demand=counts[Priority.DEMAND],
            hot=counts[Priority.HOT],
            background=counts[Priority.BACKGROUND],
            touched_windows=touched_windows,
            touched_bytes=touched_bytes,
            waited_seconds=self._counters.waited_seconds,
            windows_awaited=awaited,
            copied_bytes=self._counters.copied_bytes,
            trouble=self._scheduler.trouble,
        )

    def latencies(self) -> LatenciesNow:
        """How long readers and windows have waited so far."""
        return self._counters.latencies

    def look_again(self) -> None:
        """Notice what others have completed meanwhile. Looks at the file of every window that is missing."""
        for number in self._index.distinct():
            if not self._scheduler.is_present(number) and self._is_there(number):
                self._scheduler.found(number)

    def make_files(self) -> None:
        """Make the files of what is absent, empty, so that no reader waits for the file system to do so.

        For a thread of its own, after the start. Returns early when the attachment is closed, or where the
        file system refuses: whoever fills a window meets that again.
        """
        absent = (number for number in self._index.distinct() if not self._scheduler.is_present(number))
        wanted = takewhile(lambda _: not self._stopping.is_set(), absent)
        try:
            self._store.directory.reserve(self._index[number].id for number in wanted)
        except OSError as error:
            log.debug("not all window files were made: %s", error)

    def start_background(self) -> None:
        """Fetch everything from now on."""
        self._scheduler.start_background()

    def wait_complete(self, timeout: float | None = None) -> bool:
        """Wait until every window is local; False if it takes longer than *timeout* seconds.

        Waits only: without `background` or `start_background`, readers alone complete an image.

        Raises:
            StoreFull: the file system takes no more.
            ChunkCorrupt: all is local but what is wrong at its source.
            ChunkUnavailable: the remote refuses for good, or the attachment was closed.
        """
        return self._scheduler.wait_complete(timeout)

    def close(self) -> None:
        """Stop fetching; whoever still reads gets `ChunkUnavailable`. Returns within a second."""
        self._scheduler.close(_LEAVE_SECONDS)
        use, self._use = self._use, None
        if use is not None:
            os.close(use)
        self._store.forget(self)

    def _is_there(self, number: int) -> bool:
        window = self._index[number]
        return self._store.directory.size(window.id) == window.length

    def _has_time(self, since: float) -> bool:
        return time.monotonic() < since + self._store.limits.read_seconds

    def _read_window(self, number: int, begin: int, end: int, deadline: float) -> bytes:
        window = self._index[number]
        store = self._store
        attempt = 0
        while True:
            leave_file = attempt >= _FILE_TRIES
            if self._scheduler.is_present(number) and not leave_file:
                found = store.open_windows.read(window.id, window.length, begin, end - begin)
                if found is not None:
                    return found
                gone = store.directory.size(window.id) == 0  # evicted, here or by somebody else
                level = logging.DEBUG if gone else logging.WARNING
                log.log(level, "window %s is not what it was; looking at it again", window.id)
                self._scheduler.lost(number)
            kept = store.memory.get(window.id)
            if kept is not None:
                return bytes(memoryview(kept)[begin:end])
            found = self._wait(number, begin, end, deadline, in_memory=leave_file)
            if found is not None:
                return found
            # Rare: the file went away under its filler, or whoever looked at it last has not finished.
            if attempt:
                time.sleep(min(0.002 * 2**attempt, 0.1))
            attempt += 1

    def _wait(self, number: int, begin: int, end: int, deadline: float, *, in_memory: bool) -> bytes | None:
        window = self._index[number]
        began = time.monotonic()
        fill = self._scheduler.want(number, in_memory=in_memory)
        if fill is None and began < deadline:
            return None
        try:
            verified, memory = fill.wait(end, deadline) if fill is not None else (False, None)
        except ChunkUnavailable as error:
            read_began = deadline - self._store.limits.read_seconds
            if fill is not None and fill.began < read_began and _was_out_of_time(error):
                return None
            raise
        finally:
            self._counters.waited(time.monotonic() - began)
        if not verified:
            seconds = self._store.limits.read_seconds
            failure = ChunkUnavailable(
                f"reading window {window.index} of blob {self._index.blob(number).id}: no answer within "
                f"{seconds:g} s; the next read tries again"
            )
            log.error("%s", failure)
            raise failure
        if memory is not None:
            return bytes(memoryview(memory)[begin:end])
        return self._store.open_windows.read_prefix(window.id, begin, end - begin)


def _was_out_of_time(failure: StoreError | None) -> bool:
    """Whether a fetch ended because there was no time to try again: who joined it late may begin another.

    *failure* is what it ended with, or a waiter's copy of that.
    """
    if not isinstance(failure, ChunkUnavailable):
        return False
    ended = failure.__cause__ if isinstance(failure.__cause__, ChunkUnavailable) else failure
    return is_temporary(ended.__cause__ or ended)
