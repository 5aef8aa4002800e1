"""Work that goes on in a thread while the caller does something else; whoever waits gets its error too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Later(Generic[Result]):
    """Calls *work* in a daemon thread at once."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether `result` would not wait."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> bool:
        """Wait at most *seconds* (not at all if negative); whether the work has ended."""
        self._thread.join(max(seconds, 0.0))
        return self.ended

    def result(self) -> Result:
        """What the work returned, or the exception it raised, once it has ended."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        # Raised again by whoever waits.
        except BaseException as error:  # noqa: BLE001
            self._error = error
