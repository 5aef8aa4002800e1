"""Fetches one run of neighbouring windows: locks their files, streams one range over them, retries what
fails.

Each window is settled as soon as its last byte is in place, while the rest of the range still arrives.
Decides nothing about what to fetch or when (`scheduler`) and nothing about how bytes become files
(`window_sink`). Many threads may use one `RangeFetch`.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from chunk_store.counters import Counters
from chunk_store.errors import ChunkCorrupt, ChunkUnavailable, StoreError
from chunk_store.fill import Fill
from chunk_store.limits import Limits
from chunk_store.local_chunks import LocalChunks
from chunk_store.plan import GAP
from chunk_store.remote import BlobSource, is_temporary, wanted_rest
from chunk_store.seldom import Seldom
from chunk_store.sums import Sum
from chunk_store.window_file import LockedWindow, WindowDirectory
from chunk_store.window_index import WindowIndex
from chunk_store.window_sink import VerifiedPrefix, WindowSink, WriteRefused
from rafs.errors import RafsError

if TYPE_CHECKING:
    from chunk_store.quota import Quota

_FIRST_PAUSE = 0.1  # seconds before the first retry; doubled each time, with jitter
_LONGEST_PAUSE = 2.0
_FIRST_LOOK = 0.001  # seconds between looks at a window that another process fills; grows to the next
_SLOWEST_LOOK = 0.02
_WARNINGS = 20  # a minute of one kind

log = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of a window."""

    PRESENT = auto()  # complete in the store
    IN_MEMORY = auto()  # complete in the fill's memory; the store did not take it
    CUT = auto()  # not tried: still absent
    GIVEN_UP = (
        auto()
    )  # the remote failed and nobody waited, so it was not tried again; `error` is the StoreError
    BUSY = auto()  # another process fills it
    REFUSED = auto()  # the file system took no more; `error` is the OSError
    FAILED = auto()  # could not be fetched; `error` is the StoreError
    UNEXPECTED = auto()  # a defect, or something the machine does not give; `error` is the StoreError


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of one fill."""

    fill: Fill
    outcome: Outcome
    error: BaseException | None = None
    record: Sum | None = None  # what to note for the next checkpoint, if bytes were written


class _Stopped(Exception):
    """The attachment is being closed."""


class _Short(Exception):
    """The remote ended a range early."""

    temporary = True


class RangeFetch:
    """Fills windows of one attachment from its source."""

    def __init__(
        self,
        index: WindowIndex,
        directory: WindowDirectory,
        local: LocalChunks,
        source: BlobSource,
        limits: Limits,
        counters: Counters,
        stopping: threading.Event,
        quota: Quota | None = None,
    ) -> None:
        self._index = index
        self._directory = directory
        self.local = local
        self._source = source
        self._limits = limits
        self._counters = counters
        self._stopping = stopping
        self._quota = quota
        self._warnings = Seldom(_WARNINGS)

    @property
    def place(self) -> Path:
        """The directory the windows lie in."""
        return self._directory.path

    def run(self, fills: Iterable[Fill]) -> Iterator[Settled]:
        """Fill neighbouring windows of one blob in order; yield each of *fills* exactly once, settled, as
        early as possible.

        Only the first is waited for if another process fills it, and only if a reader wants it.
        """
        waiting = deque(fills)
        window_ids = [self._index[fill.number].id for fill in waiting]
        sinks: deque[WindowSink] = deque()
        try:
            self.local.refresh()
            yield from self._lock(waiting, sinks)
            while waiting:
                yield Settled(waiting.popleft(), Outcome.CUT)
            yield from self._stream(sinks)
        except _Stopped:
            log.debug("fetching stopped: the attachment is being closed")
        finally:
            for sink in sinks:
                sink.close()
            if self._quota is not None:
                self._quota.filled(window_ids)
        for fill in [*(sink.fill for sink in sinks), *waiting]:
            yield Settled(fill, Outcome.CUT)

    def _lock(self, waiting: deque[Fill], sinks: deque[WindowSink]) -> Iterator[Settled]:
        """Move fills from *waiting* to locked *sinks* until the run they form ends."""
        while waiting:
            try:
                opened = self._open(waiting[0], first=not sinks)
            except Exception:
                if not sinks:
                    raise
                opened = None  # it fails again at the beginning of a run, where it is known which one failed
            if opened is None:
                return
            waiting.popleft()
            if isinstance(opened, WindowSink) and not opened.finished:
                sinks.append(opened)
                if waiting and waiting[0].number != opened.number + 1:
                    return
                continue
            yield self._finish(opened) if isinstance(opened, WindowSink) else opened
            if sinks:
                return

    def _open(self, fill: Fill, *, first: bool) -> WindowSink | Settled | None:
        """A sink for *fill*, or what became of it without one; None if it cannot continue a run."""
        window, blob = self._index[fill.number], self._index.blob(fill.number)
        locked: LockedWindow | None = None
        try:
            if not fill.in_memory:
                if self._quota is not None and self._directory.size(window.id) != window.length:
                    self._quota.make_room(
                        window.id, window.length, demand=fill.wanted, beyond=fill.needs_file
                    )
                locked = self._directory.try_lock(window.id, window.length)
                if locked is None and fill.wanted and first:
                    locked = self._await_other(fill)
                    fill.in_memory = locked is None
                if locked is None and not fill.in_memory:
                    return Settled(fill, Outcome.BUSY) if first else None
            if locked is not None and locked.complete:
                locked.close()
                fill.advance(window.length)
                return Settled(fill, Outcome.PRESENT)
            sink = WindowSink(blob, window, fill, locked)
        except OSError as error:
            if locked is not None:
                locked.close()
            if not (first and fill.wanted):
                return Settled(fill, Outcome.REFUSED, error)
            fill.refused(error)
            sink = WindowSink(blob, window, fill, None)
        except BaseException:
            if locked is not None:
                locked.close()
            raise
        if not first and not sink.finished and sink.next_unit != window.first_unit:
            # Its first units are here already: one range over them would fetch them again.
            sink.close()
            return None
        return sink

    def _stream(self, sinks: deque[WindowSink]) -> Iterator[Settled]:
        """Fetch until *sinks* is empty or cannot go on; what is left in it was given up."""
        deadline = time.monotonic() + self._limits.fetch_seconds
        pause = _FIRST_PAUSE
        doubted: tuple[int, int] | None = None
        while sinks:
            before = sinks[0].wanted_from
            try:
                yield from self._copy(sinks)
                if sinks:
                    yield from self._one_request(sinks)
            except _Stopped:
                raise
            except WriteRefused as refused:
                sink = sinks.popleft()
                sink.close()
                lost = refused.cause.errno == errno.ESTALE
                yield Settled(sink.fill, Outcome.CUT if lost else Outcome.REFUSED, refused.cause)
                return
            except RafsError as error:
                sink = sinks[0]
                at = (sink.number, sink.next_unit)
                told = self._warnings.passes(type(error).__name__, time.monotonic()) is not None
                level = logging.WARNING if told else logging.DEBUG
                self._say("does not match its digest", sink.fill, error, level=level)
                self._distrust(sink)
                if doubted == at:
                    sinks.popleft()
                    sink.close()
                    yield Settled(sink.fill, Outcome.FAILED, self._corrupt(sink.fill, error))
                    return
                doubted = at
                sink.restart_unit()
            except Exception as error:  # a source may raise anything; its attribute `temporary` decides
                if not sinks:
                    log.debug("the remote failed after its last byte: %s", error)
                    return
                if sinks[0].unit_begun:
                    sinks[0].restart_unit()
                if not any(sink.fill.wanted for sink in sinks):
                    yield from self._give_up(sinks, error)
                    return
                if sinks[0].wanted_from > before:
                    pause = _FIRST_PAUSE
                rest = wanted_rest(error)
                if not is_temporary(error) or time.monotonic() + max(pause, rest) > deadline:
                    yield from self._give_up(sinks, error)
                    return
                self._say(f"failed, trying again in {pause:.1f} s", sinks[0].fill, error, level=logging.DEBUG)
                for sink in sinks:
                    sink.fill.obstacle = error
                from random import uniform  # here, because loading it costs every start 3 ms

                if self._stopping.wait(max(pause * uniform(0.5, 1.0), rest)):
                    raise _Stopped from error
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _copy(self, sinks: deque[WindowSink]) -> Iterator[Settled]:
        """Take what comes next from other windows, up to the first unit that is not in them."""
        while sinks and self.local:
            sink = sinks[0]
            self._counters.copied(sink.copy_local(self.local))
            if not sink.finished:
                return
            sinks.popleft()
            yield self._finish(sink)

    def _range_end(self, sinks: deque[WindowSink]) -> int:
        """Where the range that begins at the first wanted unit ends: before more than `GAP` bytes that are
        local, and before local ones at its end.
        """
        if not self.local:
            return sinks[-1].window.compressed_end
        blob = self._index.blob(sinks[0].number)
        last = sinks[-1].window
        begin = blob.unit(sinks[0].next_unit)
        end = begin.compressed_offset + begin.compressed_size
        for number in range(sinks[0].next_unit + 1, last.first_unit + last.unit_count):
            unit = blob.unit(number)
            if unit.compressed_offset - end > GAP:
                break
            if not self.local.has(blob, unit):
                end = unit.compressed_offset + unit.compressed_size
        return end

    def _one_request(self, sinks: deque[WindowSink]) -> Iterator[Settled]:
        start, end = sinks[0].wanted_from, self._range_end(sinks)
        blob_id = self._index.blob(sinks[0].number).id
        self._counters.request(min(sink.fill.priority for sink in sinks))
        with closing(_generator(self._source.read_at(blob_id, start, end - start))) as pieces:
            at = start
            for piece in pieces:
                if self._stopping.is_set():
                    raise _Stopped
                if not sinks:
                    break
                used = 0
                while used < len(piece) and sinks:
                    sink = sinks[0]
                    unwanted = sink.wanted_from - at
                    size = min(len(piece) - used, unwanted or sink.wanted_size)
                    sink.fill.received += size
                    if not unwanted:
                        sink.feed(piece[used : used + size] if size < len(piece) else piece)
                    used += size
                    at += size
                    if sink.finished:
                        sinks.popleft()
                        yield self._finish(sink)
                # With nothing left to fill the iterator is still asked once more: its end gives the
                # connection back.
            if at < end and sinks:
                raise _Short(
                    f"the remote ended the range of {end - start} bytes at {start} after {at - start}"
                )

    def _distrust(self, sink: WindowSink) -> None:
        """Tell the source that the unit under way was wrong."""
        blob = self._index.blob(sink.number)
        unit = blob.unit(sink.next_unit)
        self._source.distrust(blob.id, unit.compressed_offset, unit.compressed_size)

    def _finish(self, sink: WindowSink) -> Settled:
        try:
            record = sink.seal()
        except OSError as error:
            sink.close()
            return Settled(sink.fill, Outcome.REFUSED, error)
        if sink.fill.memory is not None:
            return Settled(sink.fill, Outcome.IN_MEMORY, sink.fill.refusal)
        self.local.note(sink.number)
        return Settled(sink.fill, Outcome.PRESENT, record=record)

    def _give_up(self, sinks: deque[WindowSink], error: BaseException) -> Iterator[Settled]:
        """Settle what readers wait for; with nobody waiting, the first window carries the error.

        The rest stays in *sinks*.
        """
        failing = [sink for sink in sinks if sink.fill.wanted]
        outcome = Outcome.FAILED if failing else Outcome.GIVEN_UP
        for sink in failing or [sinks[0]]:
            sinks.remove(sink)
            sink.close()
            yield Settled(sink.fill, outcome, self._unavailable(sink.fill, error))

    def _await_other(self, fill: Fill) -> LockedWindow | None:
        """Wait until whoever fills the window has completed it or let go; what it has verified is served
        meanwhile.

        Returns the lock, or None if the other makes no progress: then the window is fetched beside it, into
        memory.
        """
        window, blob = self._index[fill.number], self._index.blob(fill.number)
        prefix = VerifiedPrefix(blob, window)
        known = 0
        look = _FIRST_LOOK
        patience = time.monotonic() + self._limits.elsewhere_seconds
        while time.monotonic() < patience:
            locked = self._directory.try_lock(window.id, window.length)
            if locked is not None:
                return locked
            size = self._directory.size(window.id)
            if size > known:
                known = size
                patience = time.monotonic() + self._limits.elsewhere_seconds
                fill.advance(self._look_into(window.id, prefix, size))
            if self._stopping.wait(look):
                raise _Stopped
            look = min(2 * look, _SLOWEST_LOOK)
        self._say(
            "is being filled by another process that stands still; fetching beside it",
            fill,
            None,
            level=logging.WARNING,
        )
        return None

    def _look_into(self, window_id: str, prefix: VerifiedPrefix, size: int) -> int:
        fd = self._directory.open_read(window_id, None)
        if fd is None:
            return 0
        try:
            return prefix.extend(lambda offset, size: os.pread(fd, size, offset), size)
        finally:
            os.close(fd)

    def _unavailable(self, fill: Fill, cause: BaseException) -> StoreError:
        name = self._index.name(fill.number)
        said = str(cause) or type(cause).__name__  # want of memory has no words
        error = ChunkUnavailable(
            f"fetching {name}: {said}; the next read tries again", temporary=is_temporary(cause)
        )
        error.__cause__ = cause
        return error

    def _corrupt(self, fill: Fill, cause: BaseException) -> StoreError:
        name = self._index.name(fill.number)
        error = ChunkCorrupt(f"fetching {name}: fetched twice and wrong twice: {cause}")
        error.__cause__ = cause
        return error

    def _say(self, what: str, fill: Fill, error: BaseException | None, *, level: int) -> None:
        log.log(level, "%s %s%s", self._index.name(fill.number), what, f": {error}" if error else "")


def _generator(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """*pieces* as something that can be closed, whatever it is."""
    try:
        yield from pieces
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
