"""How many connections to one host are worth having at once, learnt from how long answers take.

The rule of TCP Vegas, on whole requests: what an answer would take alone (the shortest delay seen, plus its
bytes at the best rate seen) against what it took. While delay rules, more connections bring more; once
answers only wait for each other on the link, or for this machine's processors, fewer bring as much. So small
ranges over a long way get many, large ones over a short way few, without knowing either.
"""

from __future__ import annotations

START = 8
FEWEST = 4
"""Never fewer, so that a reader who waits finds a way beside what runs in the background."""
_FEW_QUEUED = 1.0
_MANY_QUEUED = 3.0
_SIGNIFICANT = 64 * 1024  # bytes; the rate of smaller answers says nothing about the link
_FADING = 0.02  # by which the best ever seen is doubted each round: ways change over months


class ConnectionBound:
    """The bound of one pool, at most *most*. Used under the pool's lock."""

    __slots__ = ("_alone", "_answers", "_delay", "_most", "_rate", "_taken", "value")

    def __init__(self, most: int) -> None:
        self._most = most
        self.value = min(START, most)
        self._delay = 3600.0
        self._rate = 0.0
        self._start_round()

    def note(self, size: int, delay: float, taken: float) -> None:
        """Count an answer of *size* bytes whose head came after *delay* and whose end after *taken* seconds.

        Only to be told while all connections allowed were busy: otherwise the bound was no bound.
        """
        if delay < self._delay:
            self._delay = delay
        transfer = taken - delay
        if size >= _SIGNIFICANT and transfer > 0 and size > self._rate * transfer:
            self._rate = size / transfer
        self._alone += self._delay + (size / self._rate if self._rate else 0.0)
        self._taken += taken
        self._answers += 1
        if self._answers >= self.value:
            queued = self.value * (1 - self._alone / self._taken) if self._taken else 0.0
            if queued < _FEW_QUEUED:
                self.value = min(self.value + 1, self._most)
            elif queued > _MANY_QUEUED:
                self.value = max(self.value - 1, min(FEWEST, self._most))
            self._delay *= 1 + _FADING
            self._rate *= 1 - _FADING
            self._start_round()

    def _start_round(self) -> None:
        self._alone = self._taken = 0.0
        self._answers = 0
