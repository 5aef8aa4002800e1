"""How many connections to one host are worth having at once, learnt from how long answers take.

What an answer takes is compared with what it took while only a few connections were in use: if more of them
hardly slow each other, more are opened; once they only share what the link carries, fewer bring as much. So
small ranges get many, and large ones as many as bandwidth and delay of the way call for. The comparison is
made anew now and then, since ways change over months.
"""

from __future__ import annotations

START = 8
FEWEST = 4
"""Never fewer (if allowed), so that a reader who waits finds a way beside what runs in the background."""
FIRST_PROBE = 4
PROBE_EVERY = 32
"""Rounds, of as many answers as connections are allowed, between looks at what few connections do."""
_WORTH_MORE = 0.5  # of what a connection brings alone, that another one has to bring
_WORTH_LESS = 0.25
_SIGNIFICANT = 64 * 1024  # bytes; smaller answers neither fill a link nor tell its rate


class ConnectionBound:
    """The bound of one pool, at most *most*. Used under the pool's lock."""

    __slots__ = (
        "_answers",
        "_base",
        "_before",
        "_delay",
        "_most",
        "_passed_over",
        "_rounds",
        "_size",
        "_taken",
        "value",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self.value = min(START, most)
        self._base: tuple[float, float] | None = None  # seconds an answer and a byte take among few
        self._before = 0  # the bound outside of the probe under way
        self._rounds = PROBE_EVERY - FIRST_PROBE
        self._start_round(0)

    def note(self, size: int, delay: float, taken: float) -> None:
        """Count an answer of *size* bytes whose head came after *delay* and whose end after *taken* seconds.

        Only to be told while all connections allowed were busy: otherwise the bound was no bound.
        """
        if self._passed_over:
            self._passed_over -= 1  # it began under another bound
            return
        self._size += size
        self._delay += delay
        self._taken += taken
        self._answers += 1
        if self._answers < self.value or self._most <= FEWEST:
            return
        passed_over = 0
        self._rounds += 1
        if self._before:
            self._base = (self._delay / self._answers, (self._taken - self._delay) / max(self._size, 1))
            self.value, self._before = self._before, 0
        elif self._size < self._answers * _SIGNIFICANT:
            self.value = min(self.value + 1, self._most)
        elif self._rounds >= PROBE_EVERY:
            self._rounds, self._before, passed_over = 0, self.value, self.value
            self.value = FEWEST
        elif self._base is not None:
            self._adapt(self._base)
        self._start_round(passed_over)

    def _adapt(self, base: tuple[float, float]) -> None:
        alone = base[0] * self._answers + base[1] * self._size
        more = self.value - FEWEST
        slowed = max(self._taken - alone, 0.0) / self._taken * self.value / more if more else 0.0
        worth = 1 - slowed
        if worth > _WORTH_MORE:
            self.value = min(self.value + 1, self._most)
        elif worth < _WORTH_LESS:
            self.value -= 1

    def _start_round(self, passed_over: int) -> None:
        self._delay = self._taken = 0.0
        self._answers = self._size = 0
        self._passed_over = passed_over
