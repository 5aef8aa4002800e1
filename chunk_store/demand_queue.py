"""Windows that readers wait for and that no thread fetches yet, first come first served.

When there are more than connections, what is waited for right before and behind whatever is next goes along
in the same range: to a registry the range is the work, hardly its bytes. Otherwise each has its own, and a
thread that decodes it. Pure bookkeeping, used under the scheduler's lock.
"""

from __future__ import annotations

from collections import OrderedDict

from chunk_store.fill import Fill
from chunk_store.plan import GAP
from chunk_store.window_index import WindowIndex


class DemandQueue:
    """Runs of neighbouring fills; somebody waits for the first of each. `len()` counts runs.

    Parameters:
        compressed: bytes of a range that is put together here, at most.
    """

    def __init__(self, index: WindowIndex, compressed: int) -> None:
        self._index = index
        self._compressed = compressed
        self._runs: OrderedDict[int, list[Fill]] = OrderedDict()  # by the number of the first
        self._first: dict[int, int] = {}  # of the run that ends with this number, if it may go with others

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: list[Fill], *, alone: bool = False) -> None:
        """*run* is wanted; *alone*: in a range of its own, since only the first window of a range is waited
        for, kept in memory, or known to be the one that is wrong (`RangeFetch.run`).
        """
        self._runs[run[0].number] = run
        if not alone:
            self._first[run[-1].number] = run[0].number

    def take(self, connections: int) -> list[Fill]:
        """The fills of the next range, which are in the queue no more, while so many *connections* are free;
        empty if there are none.
        """
        if not self._runs or connections < 1:
            return []
        shared = len(self._runs) > connections
        _, fills = self._runs.popitem(last=False)
        if self._first.pop(fills[-1].number, None) is None:
            return fills
        while shared and (run := self._next_to(fills)):
            del self._runs[run[0].number], self._first[run[-1].number]
            fills = sorted([*fills, *run], key=lambda fill: fill.number)
        return fills

    def clear(self) -> None:
        """Nobody waits any more."""
        self._runs.clear()
        self._first.clear()

    def _next_to(self, fills: list[Fill]) -> list[Fill]:
        """A run that the same range may serve: what lies behind, or else before *fills*."""
        begin, end = fills[0].number, fills[-1].number
        for run in (self._runs.get(end + 1), self._runs.get(self._first.get(begin - 1, -1))):
            if run is None or run[-1].number not in self._first:
                continue
            low, high = min(begin, run[0].number), max(end, run[-1].number)
            size = self._index[high].compressed_end - self._index[low].compressed_start
            if size <= self._compressed and self._index.adjacent(begin - 1 if low < begin else end, GAP):
                return run
        return []
