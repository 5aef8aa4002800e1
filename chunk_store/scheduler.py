"""Decides who fetches what when: readers first, then the hot list, then everything else.

Up to `Limits.demand_connections` threads answer readers, each miss at once and on its own (those that are
more: `demand_queue`); `Limits.bulk_connections` more fetch the hot list and the background. A miss takes the
windows right behind it along in the same request, so they arrive without a round trip and strictly after it.
While a reader waits, no background range is started but behind one who reads on and on; `limits` has the
numbers and what they are worth.

Knows windows by number and files not at all (`range_fetch` fills them); what is absent and wanted next is
`plan`'s to know, the pace `pacing`'s. Serves `store`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from chunk_store.counters import ClassCount, Counters
from chunk_store.demand_queue import DemandQueue
from chunk_store.errors import ChunkCorrupt, ChunkUnavailable, StoreError
from chunk_store.fetch_threads import FetchThreads
from chunk_store.fill import Fill
from chunk_store.limits import Limits
from chunk_store.memory_windows import MemoryWindows
from chunk_store.pacing import Pacing
from chunk_store.plan import Amount, Plan, State
from chunk_store.priority import Priority
from chunk_store.range_fetch import Outcome, RangeFetch, Settled
from chunk_store.remote import wanted_rest
from chunk_store.standstill import LimitReached, Readers, Standstill
from chunk_store.sums import Sum
from chunk_store.waiting import Waiting
from chunk_store.window_index import WindowIndex

_OTHERS_SECONDS = 0.02  # between looks at whether other attachments' readers still wait

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    """Fills that travel in one range, and whether somebody waited for the first when that was decided."""

    fills: Sequence[Fill]
    for_reader: bool


class Scheduler:
    """The fetching side of one attachment. Thread-safe.

    Parameters:
        present: numbers of the windows that are complete already.
        hot: numbers in the order in which they are wanted; fetched from the start.
        background: whether everything else is fetched as well; also allows a miss to take along what follows
            it.
        readers: who reads what is fetched.
        completed: called, under no lock, with the record of each window that was written.
        on_present: called, under no lock, with the number of each window that has become complete.
    """

    def __init__(
        self,
        index: WindowIndex,
        fetch: RangeFetch,
        counters: Counters,
        memory: MemoryWindows,
        limits: Limits,
        stopping: threading.Event,
        waiting: Waiting,
        *,
        present: Iterable[int],
        hot: Iterable[int],
        background: bool,
        readers: Readers,
        completed: Callable[[Sum], None],
        on_present: Callable[[int], None] | None = None,
    ) -> None:
        self._index = index
        self._fetch = fetch
        self._counters = counters
        self._memory = memory
        self._limits = limits
        self._stopping = stopping
        self._waiting = waiting
        self._completed = completed
        self._on_present = on_present
        self._background = background
        self._readers = readers
        # Where nobody reads, whoever waits until all is there is told, and is the one to tell.
        self._level = logging.DEBUG if readers is Readers.NONE else logging.ERROR
        # Protects everything below and each fill's priority. Held for bookkeeping only; a fill's condition
        # and the counters' lock may be taken under it, files and the remote are not touched under it.
        self._turn = threading.Condition(threading.Lock())
        self._plan = Plan(index, hot)
        self._fills: dict[int, Fill] = {}
        self._demand = DemandQueue(index, limits.demand_range)
        self._demand_running = 0
        self._bulk_running = 0
        self._unanswered = 0  # fills that a reader waits for
        self._standstill = Standstill()
        self._pacing = Pacing(limits, time.monotonic())
        self._threads = FetchThreads(
            self._turn,
            limits.demand_connections + limits.bulk_connections,
            next_job=self._next_job,
            next_change=self._next_change,
            run=self._run,
            ended=lambda job: self._count(job, -1),
        )
        with self._turn:
            for number in present:
                self._plan.mark_present(number)
            self._hire()

    def is_present(self, number: int) -> bool:
        """Whether the window is complete, as far as is known; needs no lock."""
        return self._plan.states[number] == State.PRESENT

    @property
    def complete(self) -> bool:
        """Whether every window is; needs no lock."""
        return self._plan.complete

    def totals(self) -> tuple[Amount, Amount]:
        """(what is complete, what the image has)."""
        with self._turn:
            return self._plan.present, self._plan.whole

    @property
    def evicted_windows(self) -> int:
        """How many went to make room, as far as was looked, and were not read since."""
        with self._turn:
            return self._plan.states.count(State.EVICTED)

    def by_class(self) -> tuple[dict[Priority, ClassCount], int]:
        """(What each priority has cost, windows in flight included; how many windows readers wait for)."""
        with self._turn:
            received = dict.fromkeys(Priority, 0)
            for fill in self._fills.values():
                received[fill.priority] += fill.received
            counts = {reason: self._counters.by_class(reason, received[reason]) for reason in Priority}
            return counts, self._unanswered

    def touched(self, number: int) -> None:
        """A reader came to this window for the first time."""
        with self._turn:
            self._plan.touched(number)

    def want(self, number: int, *, in_memory: bool = False, needs_file: bool = False) -> Fill | None:
        """Have the window fetched before everything else; its fill to wait on, None if it has become present
        or is kept in memory.

        *in_memory* fetches it beside its file, which cannot be read although it has the right length;
        *needs_file*: memory is of no use to who waits.

        Raises:
            ChunkUnavailable: the attachment is closed.
        """
        with self._turn:
            if self._stopping.is_set():
                raise ChunkUnavailable("reading from an image that has been unmounted")
            if self.is_present(number) and not in_memory:
                return None
            fill = self._fills.get(number)
            if fill is not None:
                fill.needs_file |= needs_file
                self._promote(fill)
                return fill
            # It may have got there since the reader looked.
            if self._memory.get(self._index[number].id) is not None:
                return None
            if self.is_present(number):
                self._plan.absent_again(number)
            run = [number]
            if self._background and not self._unanswered and not in_memory and self._standstill.full is None:
                run = self._plan.tail(number, self._limits.tail)
            fill = self._begin(number, Priority.DEMAND)
            fill.in_memory = in_memory
            fill.needs_file = needs_file
            followers = [self._begin(follower, Priority.BACKGROUND) for follower in run[1:]]
            self._demand.add([fill, *followers], alone=in_memory)
            self._await(1)
            self._plan.missed(number)
            self._hire()
            return fill

    def lost(self, number: int) -> None:
        """The window's file turned out not to hold it (any more)."""
        with self._turn:
            if self.is_present(number):
                self._plan.absent_again(number)
                self._hire()

    def evicted(self, number: int) -> None:
        """The window's file turned out to be gone. Fetches nothing: nobody reads it, and room was needed."""
        with self._turn:
            if self.is_present(number):
                self._plan.evicted(number)

    def found(self, number: int) -> None:
        """The window turned out to be complete: somebody else has completed it."""
        with self._turn:
            if self._plan.states[number] not in (State.ABSENT, State.SET_ASIDE, State.EVICTED):
                return
            self._plan.mark_present(number)
            self._turn.notify_all()
        if self._on_present is not None:
            self._on_present(number)

    def start_background(self) -> None:
        """From now on fetch everything."""
        with self._turn:
            self._background = True
            self._hire()

    def wait_complete(self, timeout: float | None) -> bool:
        """Wait until every window is present; False after *timeout* seconds.

        Raises:
            StoreFull, StoreUnusable: the file system takes no more.
            ChunkCorrupt: everything else is present, but at least one window is wrong at its source.
            ChunkUnavailable: the remote failed in a way that trying again cannot mend, or the attachment was
            closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._turn:
            while not self._plan.complete:
                missing = self._plan.whole.windows - self._plan.present.windows
                self._standstill.raise_hopeless(missing, self._plan.broken)
                if self._stopping.is_set():
                    raise ChunkUnavailable("the image was unmounted before it was complete")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._turn.wait(left)
            return True

    def obstacle(self, number: int | None = None) -> BaseException | None:
        """Why filling stands still, if it does; where window *number* is named, why that gets no further."""
        with self._turn:
            asked = None if number is None else self._fills.get(number)
            if asked is not None and asked.obstacle is not None:
                return asked.obstacle
            met = (fill.obstacle for fill in self._fills.values() if fill.obstacle is not None)
            return self._standstill.reason or next(met, None)

    def close(self, patience: float) -> None:
        """Fail all readers, stop fetching; wait at most *patience* seconds for threads in the remote."""
        with self._turn:
            self._stopping.set()
            fills = list(self._fills.values())
            self._fills.clear()
            self._await(-self._unanswered)
            self._demand.clear()
            self._threads.stop()
        for fill in fills:
            fill.fail(ChunkUnavailable("the image was unmounted while it was being read"))
        self._threads.join(patience)

    def _await(self, windows: int) -> None:
        self._unanswered += windows
        self._waiting.add(windows)

    def _begin(self, number: int, priority: Priority) -> Fill:
        fill = self._fills[number] = Fill(number, priority)
        self._plan.states[number] = State.IN_FLIGHT
        return fill

    def _promote(self, fill: Fill) -> None:
        if not fill.wanted:
            fill.priority = Priority.DEMAND
            self._await(1)
            self._plan.missed(fill.number)

    def _hire(self) -> None:
        """Have as many threads as there may be jobs."""
        wanted = len(self._demand)
        if not self._plan.complete and (self._background or self._plan.hot_left):
            wanted += self._limits.bulk_connections - self._bulk_running
        self._threads.hire(wanted)

    def _next_job(self) -> _Job | None:
        fills = self._demand.take(self._limits.demand_connections - self._demand_running)
        fills = fills or self._next_bulk(time.monotonic())
        if not fills:
            return None
        job = _Job(fills, for_reader=fills[0].wanted)
        self._count(job, 1)
        return job

    def _next_change(self) -> float | None:
        """Seconds until there may be a job that nothing tells of."""
        change = self._pacing.next_change(time.monotonic())
        if self._waiting.windows > self._unanswered:
            # Readers of another attachment, whose scheduler does not wake us when they are served.
            change = _OTHERS_SECONDS if change is None else min(change, _OTHERS_SECONDS)
        return change

    def _count(self, job: _Job, jobs: int) -> None:
        if job.for_reader:
            self._demand_running += jobs
        else:
            self._bulk_running += jobs

    def _next_bulk(self, now: float) -> list[Fill]:
        if self._standstill.full is not None and not self._pacing.may_try_disk(now):
            return []
        run: list[int] = []
        priority = Priority.HOT
        if self._bulk_running < self._pacing.hot_room(now, self._waiting.windows):
            run = self._plan.next_hot(self._limits.bulk_range)
            if not run and self._background:
                # Will be waited for as surely as the hot list.
                priority = Priority.BACKGROUND
                run = self._plan.next_streamed(self._limits.bulk_range)
        room = self._pacing.background_room(now, self._waiting.windows) if self._background else 0
        if not run and self._bulk_running < room:
            priority = Priority.BACKGROUND
            run = self._plan.next_background(self._limits.bulk_range)
            if not run and self._plan.states.find(State.SET_ASIDE) >= 0 and self._pacing.may_retry(now):
                self._plan.retry_set_aside()
                run = self._plan.next_background(self._limits.bulk_range)
        return [self._begin(number, priority) for number in run]

    def _run(self, job: _Job) -> None:
        fills = job.fills
        try:
            for settled in self._fetch.run(fills):
                self._settle(settled)
        except Exception as error:
            # A worker that dies silently would leave readers waiting for ever.
            with self._turn:
                told = self._pacing.may_trace(type(error), time.monotonic())
                left = [fill for fill in fills if self._fills.get(fill.number) is fill]
            if told:
                log.exception("filling windows %s failed unexpectedly", [fill.number for fill in fills])
            if left:
                text = f"filling window {left[0].number} failed unexpectedly: {error!r}"
                failure = ChunkUnavailable(text, temporary=True)
                failure.__cause__ = error
                self._settle(Settled(left[0], Outcome.UNEXPECTED, failure))
            for fill in left[1:]:  # gets a run of its own, in which it is seen whether it was this one
                self._settle(Settled(fill, Outcome.CUT))

    def _settle(self, settled: Settled) -> None:
        fill, outcome = settled.fill, settled.outcome
        message: StoreError | None = None
        refusal = self._refusal(settled)
        if settled.record is not None:
            # First, so that whoever sees the window complete can count on its being in the next checkpoint.
            self._completed(settled.record)
        with self._turn:
            if self._fills.get(fill.number) is not fill:
                return
            if outcome in (Outcome.CUT, Outcome.BUSY, Outcome.GIVEN_UP, Outcome.REFUSED) and fill.wanted:
                # Somebody began to wait for it while it was fetched for nobody: it starts again, on its own.
                self._demand.add([fill], alone=True)
                self._hire()
                return
            del self._fills[fill.number]
            self._await(-int(fill.wanted))
            if fill.wanted:
                self._pacing.answered(time.monotonic())
            self._counters.received(
                fill.priority,
                fill.received,
                outcome in (Outcome.PRESENT, Outcome.IN_MEMORY) and fill.received > 0,
            )
            if outcome is Outcome.PRESENT:
                self._counters.filled(fill.priority, fill.advanced - fill.began)
            message = self._place(fill, settled, refusal)
            complete = self._plan.complete
            self._hire()
        if complete:
            self._fetch.local.clear()
        if outcome is Outcome.PRESENT and self._on_present is not None:
            self._on_present(fill.number)
        if message is not None:
            log.log(self._level, "%s", message)
        failure = settled.error if outcome in (Outcome.FAILED, Outcome.UNEXPECTED) else None
        if isinstance(failure, StoreError):
            # Whoever waits is told, and says which file it was.
            log.log(logging.DEBUG if fill.wanted else self._level, "%s", failure)
            fill.fail(failure)

    def _refusal(self, settled: Settled) -> StoreError | None:
        """Why the store does not keep the window, if so. Looks at the file system: under no lock."""
        error = settled.error
        if not isinstance(error, OSError) or settled.outcome not in (Outcome.IN_MEMORY, Outcome.REFUSED):
            return None
        return self._readers.refusal(self._index[settled.fill.number].id, error, self._fetch.place)

    def _place(self, fill: Fill, settled: Settled, refusal: StoreError | None) -> StoreError | None:
        """Move the window to the state its outcome means; what to log, if anything."""
        outcome, error = settled.outcome, settled.error
        if outcome is Outcome.PRESENT:
            self._plan.mark_present(fill.number)
            # Once all is there, nothing stands still, whoever completed it.
            for_reader = fill.wanted and not self._plan.complete
            self._standstill.window_completed(written=settled.record is not None, for_reader=for_reader)
            self._pacing.remote_works()
            return None
        if outcome is Outcome.IN_MEMORY:
            assert fill.memory is not None
            self._memory.put(self._index[fill.number].id, fill.memory)
            self._plan.states[fill.number] = State.SET_ASIDE
        elif outcome in (Outcome.BUSY, Outcome.UNEXPECTED):
            self._plan.states[fill.number] = State.SET_ASIDE
        elif isinstance(error, ChunkCorrupt):
            self._standstill.remote_failed(error)
            self._plan.states[fill.number] = State.BROKEN
        else:
            self._plan.absent_again(fill.number)
            if outcome is Outcome.FAILED and isinstance(error, StoreError):
                self._standstill.remote_failed(error)
        if refusal is not None:
            at_limit = isinstance(error, LimitReached) and not fill.wanted
            self._standstill.disk_refused(refusal, at_limit=at_limit)
            return refusal if self._pacing.disk_refused(time.monotonic()) else None
        if outcome in (Outcome.GIVEN_UP, Outcome.UNEXPECTED) and isinstance(error, StoreError):
            self._standstill.remote_failed(error)
            self._pacing.remote_failed(time.monotonic(), wanted_rest(error.__cause__))
            if not (isinstance(error, ChunkUnavailable) and error.temporary):
                self._plan.states[fill.number] = State.SET_ASIDE  # other blobs may be there
        return None
