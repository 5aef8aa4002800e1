"""What readers of kernel mounts wait for, window by window: answered by the image that has the window, parked
while that is being opened.

Serves `filler`, for whom the keeper's words are translated here into fetches, and results into words.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chunk_store import ChunkUnavailable, StoreError
from erofs_fs.keeper_words import Word
from launch.images.image_request import ImageRequest
from launch.kernel_mounts.fillings import Fillings
from launch.kernel_mounts.lost_reads import LostReads
from launch.kernel_mounts.shown_mounts import ShownMounts


@dataclass(frozen=True, slots=True)
class _Need:
    """What somebody waits for, and when that was heard."""

    window_id: str
    end: int  # bytes
    at: int  # nanoseconds of the monotonic clock


class Needs:
    """Thread-safe.

    Parameters:
        root: the state root, for documents of images.
        open_image: called for an image that is mounted and not open; it is soon, or `opened` is called.
        have: called with window and bytes that are there, by any thread.
        lost: called with window and the time until which it was needed in vain (`Word`), by any thread.
    """

    def __init__(
        self,
        fillings: Fillings,
        mounts: ShownMounts,
        root: Path,
        open_image: Callable[[ImageRequest], None],
        have: Callable[[str, int], None],
        lost: Callable[[str, int], None],
    ) -> None:
        self._fillings = fillings
        self._mounts = mounts
        self._lost_reads = LostReads(fillings, mounts, root)
        self._open_image = open_image
        self._have = have
        self._lost = lost
        self._patience = math.inf  # of readers, in nanoseconds, as soon as one has lost it
        # Protects what follows. A leaf.
        self._lock = threading.Lock()
        self._parked: list[_Need] = []  # windows of images that are not open (yet)

    @property
    def waiting(self) -> bool:
        """Whether something waits for an image to be opened."""
        return bool(self._parked)

    def need(self, word: Word) -> None:
        """Somebody waits for that much of a window: have it told when it is there, or cannot be had."""
        need = _Need(word.window_id, word.end, time.monotonic_ns())
        if not self._fetch(need):
            self._park(need)

    def late(self, window_id: str, end: int, seconds: float) -> None:
        """Who has waited *seconds* for that much of a window has got an error: have it logged, with the cause
        as far as there is one by now.
        """
        self._patience = seconds * 1e9
        found = self._fillings.find(window_id)
        if found is None:
            why = "its image is not open"
            error = ChunkUnavailable(f"window {window_id}: no answer within {seconds:g} s: {why}")
        else:
            filling, number = found
            error = filling.attachment.late(number, seconds)
        self._lost_reads.note(window_id, end, error)

    def opened(self) -> None:
        """An image was opened, could not be, or is complete: see what that means for what is parked."""
        with self._lock:
            parked, self._parked = self._parked, []
        for need in parked:
            if self._fetch(need):
                continue
            if self._fillings.opening:
                with self._lock:
                    self._parked.append(need)
            else:
                self._lost(need.window_id, need.at)

    def _fetch(self, need: _Need) -> bool:
        """Whether an open image has the window."""
        found = self._fillings.find(need.window_id)
        if found is None:
            return False
        filling, number = found
        filling.reads.note(need.window_id, need.end)

        def tell(error: StoreError | None) -> None:
            if error is None:
                self._have(need.window_id, need.end)
            else:
                self._lost(need.window_id, need.at)
                if time.monotonic_ns() - need.at < self._patience:  # else it is `late` and has been noted
                    self._lost_reads.note(need.window_id, need.end, error)

        filling.attachment.when_local(number, need.end, tell)
        return True

    def _park(self, need: _Need) -> None:
        """Its image is not open: it is being opened, or was let go when it was complete."""
        with self._lock:
            self._parked.append(need)
        for name, request in self._mounts.images().items():
            if self._fillings.of(name) is None:
                self._open_image(request)
        if not self._fillings.opening:
            self.opened()
