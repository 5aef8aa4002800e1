"""One image's blobs bound to a store and to the remote they come from: the only way to read bytes.

Here a read is served and the pieces that fetch are wired together; how windows lie on disk, are fetched,
scheduled and recorded is in the modules beside it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from chunk_store.attached import record_use
from chunk_store.checkpoint import Checkpoints
from chunk_store.counters import Counters, LatenciesNow, Progress
from chunk_store.errors import ChunkUnavailable, StoreError, StoreFull
from chunk_store.fill import Listener
from chunk_store.limits import Limits
from chunk_store.local_chunks import LocalChunks
from chunk_store.memory_windows import MemoryWindows
from chunk_store.open_windows import OpenWindows
from chunk_store.priority import Priority
from chunk_store.range_fetch import RangeFetch
from chunk_store.remote import BlobSource
from chunk_store.scheduler import Scheduler
from chunk_store.standstill import Readers
from chunk_store.waiting import Waiting
from chunk_store.window_file import WindowDirectory
from chunk_store.window_index import WindowIndex
from rafs.blob_meta import BlobMeta

if TYPE_CHECKING:
    from chunk_store.quota import Quota

_FILE_TRIES = 3  # of one read: a file may be damaged, repaired, damaged again; then it is left alone
_LOOK_SECONDS = 1.0  # between two looks at all files for `progress_now`: 20 000 take 0.1 s
LEAVE_SECONDS = 0.4  # `close` waits this long for fetching threads

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the attachments of one store have in common; it is the store's."""

    root: Path
    limits: Limits
    directory: WindowDirectory
    open_windows: OpenWindows
    memory: MemoryWindows
    checkpoints: Checkpoints
    waiting: Waiting
    quota: Quota | None


class Attachment:
    """One image's blobs, readable as if they were local. Made by `ChunkStore.attach`; thread-safe."""

    def __init__(
        self,
        shared: Shared,
        blobs: Sequence[BlobMeta],
        source: BlobSource,
        hot: Sequence[tuple[int, int, int]],
        *,
        background: bool,
        readers: Readers,
        on_present: Callable[[str], None] | None,
        closed: Callable[[Attachment], None],
    ) -> None:
        self._shared = shared
        self._closed = closed
        self._look_at = 0.0
        self._index = WindowIndex(blobs)
        self._counters = Counters(len(self._index), [blob.uncompressed_size for blob in blobs])
        self._stopping = threading.Event()
        self._use = record_use(shared.root, (self._index[number].id for number in self._index.distinct()))
        self._scheduler = Scheduler(
            self._index,
            RangeFetch(
                self._index,
                shared.directory,
                LocalChunks(shared.root, self._index, shared.directory),
                source,
                shared.limits,
                self._counters,
                self._stopping,
                shared.quota,
            ),
            self._counters,
            shared.memory,
            shared.limits,
            self._stopping,
            shared.waiting,
            present=[number for number in self._index.distinct() if self._is_there(number)],
            hot=[number for place in hot for number, _, _ in self._index.pieces(*place)],
            background=background,
            readers=readers,
            completed=shared.checkpoints.note,
            on_present=None if on_present is None else lambda number: on_present(self._index[number].id),
        )

    @property
    def complete(self) -> bool:
        """Whether every window is local."""
        return self._scheduler.complete

    def window_numbers(self) -> dict[str, int]:
        """The numbers of all windows, which `when_local` takes, by their ids."""
        return {self._index[number].id: number for number in self._index.distinct()}

    def read(self, blob_index: int, offset: int, size: int, until: float | None = None) -> bytes:
        """Return exactly *size* verified bytes at *offset* of the blob's uncompressed address space; waits
        for what is not local.

        A range inside the verified prefix of a window that is being filled is answered at once.

        Raises:
            RangeOutside: the blob has no such bytes.
            ChunkUnavailable: they could not be fetched within `Limits.read_seconds`, or by *until*, in
            seconds of the monotonic clock, if that is earlier; or the attachment was closed.
            ChunkCorrupt: the remote's bytes are wrong, also after fetching them again.
        """
        pieces = list(self._index.pieces(blob_index, offset, size))
        self._counters.touched(blob_index, offset, size)
        began = time.monotonic()
        deadline = began + self._shared.limits.read_seconds
        if until is not None:
            deadline = min(deadline, until)
        originals = [self._index.original[number] for number, _, _ in pieces]
        for number in originals:
            self._touch(number)
            if len(originals) > 1 and not self._scheduler.is_present(number):
                self._scheduler.want(number)
        found = [
            self._read_window(number, begin, end, deadline)
            for number, (_, begin, end) in zip(originals, pieces, strict=True)
        ]
        return found[0] if len(found) == 1 else b"".join(found)

    def read_into(self, into: memoryview, blob_index: int, offset: int, *, from_disk: bool) -> bool:
        """Whether *into* was filled as `read` would; only with what is here, waiting for no network, and for
        the disk only if *from_disk*.

        Raises:
            RangeOutside: the blob has no such bytes.
        """
        size, at = len(into), 0
        numbers = []
        for number, begin, end in self._index.pieces(blob_index, offset, size):
            original = self._index.original[number]
            if not self._read_here(into[at : at + end - begin], original, begin, from_disk=from_disk):
                return False
            at += end - begin
            numbers.append(original)
        self._counters.touched(blob_index, offset, size)
        for number in numbers:
            self._touch(number)
        return True

    def is_local(self, blob_index: int, offset: int, size: int) -> bool:
        """Whether `read` of these bytes would not have to wait, as far as is known; fetches nothing.

        Raises:
            RangeOutside: the blob has no such bytes.
        """
        return all(
            self._scheduler.is_present(self._index.original[number])
            or self._shared.memory.get(self._index[number].id) is not None
            for number, _, _ in self._index.pieces(blob_index, offset, size)
        )

    def when_local(self, number: int, end: int, listener: Listener) -> None:
        """Have *listener* called once: with None when the first *end* bytes of window *number* are verified
        and in its file, with an error if they could not be brought there.

        For those who read the file by other ways than `read`. Fetches as a read does and waits for nothing;
        *listener* is called by any thread, perhaps before the return, and must neither wait nor raise.
        """
        self._when_local(number, end, listener, time.monotonic())

    def _when_local(self, number: int, end: int, listener: Listener, since: float) -> None:
        window, original = self._index[number], self._index.original[number]
        self._touch(original)
        try:
            if self._scheduler.is_present(original):
                if self._shared.directory.size(window.id) == window.length:
                    listener(None)
                    return
                self._scheduler.lost(original)
            # What memory keeps is of no use here. It is fetched again, for its file, but not as long as that
            # would be in vain.
            if self._shared.memory.get(window.id) is not None and _has_room(self._shared.root, window.length):
                self._shared.memory.forget(window.id)
            fill = self._scheduler.want(original, needs_file=True)
            if fill is not None:
                joined = fill.began < since

                def told(error: StoreError | None) -> None:
                    if joined and _was_out_of_time(error) and self._has_time(since):
                        self._when_local(number, end, listener, since)
                    else:
                        listener(error)

                fill.tell(end, told)
            elif self._shared.directory.size(window.id) == window.length:
                listener(None)
            else:
                listener(StoreFull(f"window {window.id} is in memory, because its file takes no more"))
        except StoreError as error:
            listener(error)

    def progress_now(self) -> Progress:
        """As `progress`, after a look at the files, at most a second old: what was evicted meanwhile is not
        local, whoever did it. Files that cannot be looked at change nothing.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            with suppress(OSError):
                self.look_again()
                self._look_for_evicted()
        return self.progress()

    def late(self, number: int, seconds: float) -> ChunkUnavailable:
        """The error for who has waited *seconds* for window *number* in vain: with what stands in the way."""
        obstacle = self._scheduler.obstacle(number)
        cause = "" if obstacle is None else f": {_text(obstacle)}"
        error = ChunkUnavailable(
            f"reading {self._index.name(number)}: no answer within {seconds:g} s{cause}; the next read tries "
            "again",
            temporary=True,
        )
        error.__cause__ = obstacle
        return error

    def progress(self) -> Progress:
        """What is local as far as is known, what it cost to fetch, what was touched, at this moment."""
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
            windows_evicted=self._scheduler.evicted_windows,
            copied_bytes=self._counters.copied_bytes,
            trouble=_text(self._scheduler.obstacle()),
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
            self._shared.directory.reserve(self._index[number].id for number in wanted)
        except OSError as error:
            log.debug("not all window files were made: %s", error)

    def start_background(self) -> None:
        """Fetch everything from now on."""
        self._scheduler.start_background()

    def wait_complete(self, timeout: float | None = None) -> bool:
        """Wait until every window is local; False if it takes longer than *timeout* seconds.

        Waits only: without `background` or `start_background`, readers alone complete an image.

        Raises:
            StoreFull, StoreUnusable: the file system takes no more.
            ChunkCorrupt: all is local but what is wrong at its source.
            ChunkUnavailable: the remote refuses for good, or the attachment was closed.
        """
        return self._scheduler.wait_complete(timeout)

    def close(self) -> None:
        """Stop fetching; whoever still reads gets `ChunkUnavailable`. Returns within a second."""
        self._scheduler.close(LEAVE_SECONDS)
        use, self._use = self._use, None
        if use is not None:
            os.close(use)
        self._closed(self)

    def _look_for_evicted(self) -> None:
        for number in self._index.distinct():
            if self._scheduler.is_present(number) and not self._is_there(number):
                self._scheduler.evicted(number)

    def _is_there(self, number: int) -> bool:
        window = self._index[number]
        return self._shared.directory.size(window.id) == window.length

    def _has_time(self, since: float) -> bool:
        return time.monotonic() < since + self._shared.limits.read_seconds

    def _touch(self, number: int) -> None:
        """A reader came to this window."""
        if self._counters.touched_window(number):
            self._scheduler.touched(number)

    def _read_here(self, into: memoryview, number: int, begin: int, *, from_disk: bool) -> bool:
        window, shared = self._index[number], self._shared
        if self._scheduler.is_present(number):
            return shared.open_windows.read_into(into, window.id, window.length, begin, from_disk=from_disk)
        kept = shared.memory.get(window.id)
        if kept is not None:
            into[:] = memoryview(kept)[begin : begin + len(into)]
        return kept is not None

    def _read_window(self, number: int, begin: int, end: int, deadline: float) -> bytes:
        window = self._index[number]
        shared = self._shared
        attempt = 0
        while True:
            leave_file = attempt >= _FILE_TRIES
            if self._scheduler.is_present(number) and not leave_file:
                found = shared.open_windows.read(window.id, window.length, begin, end - begin)
                if found is not None:
                    return found
                gone = shared.directory.size(window.id) == 0  # evicted, here or by somebody else
                level = logging.DEBUG if gone else logging.WARNING
                log.log(level, "window %s is not what it was; looking at it again", window.id)
                self._scheduler.lost(number)
            kept = shared.memory.get(window.id)
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
            read_began = deadline - self._shared.limits.read_seconds
            if fill is not None and fill.began < read_began and _was_out_of_time(error):
                return None
            raise
        finally:
            self._counters.waited(time.monotonic() - began)
        if not verified:
            # Less than others get, for who has waited before or for another window.
            raise self.late(number, round(max(deadline - began, 0.0), 1))
        if memory is not None:
            return bytes(memoryview(memory)[begin:end])
        return self._shared.open_windows.read_prefix(window.id, begin, end - begin)


def _has_room(root: Path, size: int) -> bool:
    free = os.statvfs(root)
    return free.f_bavail * free.f_frsize > size and (free.f_favail > 0 or not free.f_files)


def _text(error: BaseException | None) -> str | None:
    return None if error is None else str(error) or repr(error)


def _was_out_of_time(failure: StoreError | None) -> bool:
    """Whether a fetch that ended with *failure* had no time to try again: who joined it late may begin
    another.
    """
    return isinstance(failure, ChunkUnavailable) and failure.temporary
