"""A value that is made when it is first asked for; who never asks does not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Once(Generic[Value]):
    """What *make* returns. Thread-safe: one makes it, others wait; after an error the next one tries."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._lock = threading.Lock()
        self._make: Callable[[], Value] | None = make  # dropped with all it holds when it was called
        self._value: Value

    def get(self) -> Value:
        """The value. Raises: what *make* raises."""
        with self._lock:
            if self._make is not None:
                self._value = self._make()
                self._make = None
            return self._value
