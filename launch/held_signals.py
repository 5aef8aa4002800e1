"""Keep signals back while something is made that nobody else would take away.

A signal that ends the process between a mount and its record would leave a mount that the exit code denies.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class HeldSignals:
    """Signals that end this process are only `noted` from `hold` until `release`, which is when they have
    their effect, or until this is left. Main thread only.

    Not by a mask: other threads would take them meanwhile, and have the main thread interrupted.
    """

    def __init__(self) -> None:
        self.noted: list[int] = []
        self._former: dict[signal.Signals, Any] = {}
        self._at_first: Callable[[], object] = lambda: None

    def hold(self, at_first: Callable[[], object] = lambda: None) -> None:
        """From here on; those that are ignored are ignored further. *at_first* is called as the first comes:
        what it raises ends a wait.
        """
        self._at_first = at_first
        for number in ENDING:
            if number not in self._former and signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._note)

    def release(self, undo: Callable[[], object] = lambda: None) -> None:
        """Let the first that has come meanwhile have its effect, after *undo*; and each that comes from now
        on, without.
        """
        former, self._former = self._former, {}
        for number, action in former.items():
            signal.signal(number, signal.SIG_DFL if action is None else action)
        if self.noted:
            first, self.noted = self.noted[0], []
            undo()
            signal.raise_signal(first)

    def __enter__(self) -> HeldSignals:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.noted.append(number)
        if len(self.noted) == 1:
            self._at_first()
