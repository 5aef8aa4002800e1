"""One window while it is being filled: how far it is, and the readers who wait for it.

A reader needs a prefix of the window and is woken as soon as that much is verified. Does no I/O. The fetcher
moves it on, the scheduler decides its priority, `Attachment.read` waits on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from copy import copy

from chunk_store.errors import StoreError, StoreFull
from chunk_store.priority import Priority

Listener = Callable[[StoreError | None], None]


class Fill:
    """The filling of window *number*; lives from the first request for it until it is settled.

    `priority`, `received` and `needs_file` belong to the scheduler's lock; `began` and `advanced`, seconds of
    the monotonic clock, to who fills; the rest is guarded by the fill's own condition.
    """

    __slots__ = (
        "_changed",
        "_error",
        "_listeners",
        "_memory",
        "_needed",
        "_verified",
        "advanced",
        "began",
        "in_memory",
        "needs_file",
        "number",
        "obstacle",
        "priority",
        "received",
        "refusal",
    )

    def __init__(self, number: int, priority: Priority, *, in_memory: bool = False) -> None:
        self.number = number
        self.began = self.advanced = time.monotonic()
        self.priority = priority
        self.in_memory = in_memory  # never written to the store: its file cannot be read back
        self.needs_file = False  # somebody waits who reads the window's file himself
        self.refusal: OSError | None = None  # why the store did not take it
        self.obstacle: BaseException | None = None  # why it is being tried again, until bytes come
        self.received = 0  # compressed bytes, those of failed attempts included
        # Protects the five below. A leaf: nothing is taken, called or touched while it is held.
        self._changed = threading.Condition(threading.Lock())
        self._needed: list[int] = []  # by those who wait, in bytes
        self._listeners: list[tuple[int, Listener]] = []
        self._verified = 0
        self._memory: bytearray | None = None
        self._error: StoreError | None = None

    def advance(self, verified: int) -> None:
        """The first *verified* bytes of the window can be read now."""
        self.obstacle = None
        with self._changed:
            if verified > self._verified:
                self._verified, self.advanced = verified, time.monotonic()
            # Not for every chunk: a wake-up of somebody who needs more costs more than the chunk.
            if self._needed and min(self._needed) <= self._verified:
                self._changed.notify_all()
            served = self._leaving(self._verified) if self._listeners and self._memory is None else ()
        for listener in served:
            listener(None)

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
            left = self._leaving(len(memory))
        for listener in left:
            listener(self._not_in_file())

    def fail(self, error: StoreError) -> None:
        """Nothing more will come; readers who need more than what is verified get *error*."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()
            left = [listener for _, listener in self._listeners]
            self._listeners.clear()
        for listener in left:
            listener(error)

    def tell(self, end: int, listener: Listener) -> None:
        """Have *listener* called once: with None when the first *end* bytes are verified and in the window's
        file, with an error when they will not be.

        By the thread that fills, or by this one before the return; it must neither wait nor raise.
        """
        with self._changed:
            there = self._memory is None and self._verified >= end
            error = self._error or (self._not_in_file() if self._memory is not None else None)
            if not there and error is None:
                self._listeners.append((end, listener))
                return
        listener(None if there else error)

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
            if self._verified >= end:
                return True, self._memory
            self._needed.append(end)
            try:
                while self._verified < end:
                    if self._error is not None:
                        raise copy(self._error) from self._error
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False, None
                    self._changed.wait(left)
                return True, self._memory
            finally:
                self._needed.remove(end)

    def _leaving(self, verified: int) -> list[Listener]:
        """Those who listen for no more than *verified* bytes; they are told once. Under the lock."""
        leaving = [listener for end, listener in self._listeners if end <= verified]
        self._listeners = [waiting for waiting in self._listeners if waiting[0] > verified]
        return leaving

    def _not_in_file(self) -> StoreFull:
        reason = "another process stands still" if self.refusal is None else self.refusal.strerror
        return StoreFull(f"window {self.number} is in memory, not in its file: {reason}")

    def __repr__(self) -> str:
        where = "memory" if self._memory is not None else "file"
        return f"<Fill {self.number} {self.priority.name} {self._verified} in {where}, {self._error!r}>"
