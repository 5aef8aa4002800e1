"""Says which files' reads have failed, in the log: by one thread, and no more than people can use.

To name a file its image has to be opened and looked through, which costs as much as many fetches. Readers who
fail come in hundreds, and the process that serves the others has to stay free for them. Serves `needs`.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from chunk_store import StoreError
from chunk_store.seldom import Seldom
from launch.images.lazy_image import look_into
from launch.kernel_mounts.fillings import Fillings
from launch.kernel_mounts.shown_mounts import ShownMounts
from launch.kernel_mounts.window_reads import owners_of
from launch.later import Later
from rafs.directory import name_text
from rafs.windows import cut_windows

AGAIN_SECONDS = 10.0  # between two lines about one window, and two looks through the images
MOST_WINDOWS = 100  # looked for in that time; reads of others are counted
MOST_LINES = 20  # about one kind of error in a minute, as of a FUSE mount
_TOGETHER_SECONDS = 0.2  # those who fail at once have failed within this

log = logging.getLogger("nopull.filler")

_Lost = dict[str, tuple[int, StoreError]]  # by window: what was needed of it first, and why it did not come


class LostReads:
    """Thread-safe. *root* is the state root, for documents of images."""

    def __init__(self, fillings: Fillings, mounts: ShownMounts, root: Path) -> None:
        self._fillings = fillings
        self._mounts = mounts
        self._root = root
        self._seldom = Seldom(MOST_LINES)
        # Protects what follows. A leaf.
        self._lock = threading.Lock()
        self._lost: _Lost = {}  # not said yet
        self._more = 0  # reads that were left out
        self._said: set[str] = set()  # windows, a moment ago
        self._is_saying = False

    def note(self, window_id: str, end: int, error: StoreError) -> None:
        """A read of the bytes before *end* of that window has failed. Waits for nothing."""
        with self._lock:
            if window_id in self._said or window_id in self._lost:
                return
            if len(self._lost) >= MOST_WINDOWS:
                self._more += 1
                return
            self._lost[window_id] = (end, error)
            if self._is_saying:
                return
            self._is_saying = True
        Later(self._say_all)

    def _say_all(self) -> None:
        """Until nothing was lost for a while."""
        time.sleep(_TOGETHER_SECONDS)
        while True:
            with self._lock:
                lost, self._lost = self._lost, {}
                more, self._more = self._more, 0
                self._said = set(lost)
                self._is_saying = bool(lost)
            if not lost:
                return
            try:
                more += self._say(lost)
            # An image that cannot be looked into is no reason to say nothing, nor to fall silent.
            except Exception as error:  # noqa: BLE001
                log.error("reads of %d windows failed; of which files cannot be told: %s", len(lost), error)
            if more:
                log.error("%d more reads failed", more)
            time.sleep(AGAIN_SECONDS)

    def _say(self, lost: _Lost) -> int:
        """How many were left out."""
        left_out = 0
        for name, request in self._mounts.images().items():
            filling = self._fillings.of(name)
            mine = [window_id for window_id in lost if filling is not None and window_id in filling.numbers]
            if not mine:
                continue
            bootstrap, blobs = look_into(request, self._root)
            windows = [cut_windows(blob) for blob in blobs]
            needed = [(window_id, lost[window_id][0]) for window_id in mine]
            for window_id, owner in zip(mine, owners_of(needed, bootstrap, windows), strict=True):
                if owner is not None:
                    left_out += not self._told(lost.pop(window_id)[1], name_text(owner[0]))
        for _, error in lost.values():
            left_out += not self._told(error, None)
        return left_out

    def _told(self, error: StoreError, path: str | None) -> bool:
        """Whether there was a line of it left."""
        kind = type(error).__name__
        if self._seldom.passes(kind, time.monotonic()) is None:
            return False
        if path is None:
            log.error("read of a file that is not known: %s: %s", kind, error)
        else:
            log.error("read %s: %s: %s", path, kind, error, extra={"path": path})
        return True
