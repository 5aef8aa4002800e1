"""One window while it is being filled: how far it is, and the readers who wait for it.

A reader needs a prefix of the window and is woken as soon as that much is verified. Does no I/O. The fetcher
moves it on, the scheduler decides its priority, `Attachment.read` waits on it.
"""

from __future__ import annotations

import threading
import time

from chunk_store.errors import StoreError
from chunk_store.plan import Priority


class Fill:
    """The filling of window *number*; lives from the first request for it until it is settled.

    `priority` and `received` belong to the scheduler's lock; the rest is guarded by the fill's own condition.
    """

    __slots__ = (
        "_changed",
        "_error",
        "_memory",
        "_verified",
        "in_memory",
        "number",
        "priority",
        "received",
        "refusal",
    )

    def __init__(self, number: int, priority: Priority, *, in_memory: bool = False) -> None:
        self.number = number
        self.priority = priority
        self.in_memory = in_memory  # never written to the store: its file cannot be read back
        self.refusal: OSError | None = None  # why the store did not take it
        self.received = 0  # compressed bytes, those of failed attempts included
        # Protects the three below. A leaf: nothing is taken and no file is touched while it is held.
        self._changed = threading.Condition(threading.Lock())
        self._verified = 0
        self._memory: bytearray | None = None
        self._error: StoreError | None = None

    def advance(self, verified: int) -> None:
        """The first *verified* bytes of the window can be read now."""
        with self._changed:
            self._verified = max(self._verified, verified)
            self._changed.notify_all()

    def refused(self, error: OSError) -> None:
        """The file system does not take the window; it goes on in memory. For the thread that fills it."""
        self.in_memory = True
        self.refusal = error

    def move_to_memory(self, memory: bytearray, right: int) -> None:
        """From now on readers are served from *memory*, of which the first *right* bytes are the window's.

        That may be less than the file had: a file that was resumed is verified further than it is being
        rewritten.
        """
        with self._changed:
            self._memory = memory
            self._verified = right

    def fail(self, error: StoreError) -> None:
        """Nothing more will come; readers who need more than what is verified get *error*."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    @property
    def wanted(self) -> bool:
        """Whether a reader waits for it."""
        return self.priority is Priority.DEMAND

    @property
    def memory(self) -> bytearray | None:
        """The window's bytes, if they are kept in memory instead of the store."""
        return self._memory

    def wait(self, end: int, deadline: float) -> tuple[bool, bytearray | None]:
        """Wait until the window's first *end* bytes are verified, or `time.monotonic()` passes *deadline*:
        (whether, where).

        "Where" is the memory they are in, None for the file; asked separately, the two could disagree.

        Raises:
            StoreError: the filling failed; every waiter gets its own copy, because each adds its own
            traceback.
        """
        with self._changed:
            while self._verified < end:
                if self._error is not None:
                    raise type(self._error)(*self._error.args) from self._error
                left = deadline - time.monotonic()
                if left <= 0:
                    return False, None
                self._changed.wait(left)
            return True, self._memory

    def __repr__(self) -> str:
        where = "memory" if self._memory is not None else "file"
        return f"<Fill {self.number} {self.priority.name} {self._verified} in {where}, {self._error!r}>"
