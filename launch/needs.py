"""What readers of kernel mounts wait for, window by window: answered by the image that has the window, parked
while that is being opened.

Serves `filler`, for whom the keeper's words are translated here into fetches, and results into words.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from chunk_store import StoreError
from erofs_fs.keeper_words import HAVE, LOST, Word
from launch.fillings import Fillings
from launch.image_request import ImageRequest
from launch.images import open_request
from launch.later import Later
from launch.shown_mounts import ShownMounts
from launch.window_reads import files_of
from rafs.windows import cut_windows

log = logging.getLogger("nopull.filler")

WHOLE: Final = (1 << 63) - 1  # bytes: more than any window has


class Needs:
    """Thread-safe.

    Parameters:
        root: the state root, for documents of images.
        open_image: called for an image that is mounted and not open; it is soon, or `opened` is called.
        tell: called with (HAVE or LOST, window, bytes), by any thread.
    """

    def __init__(
        self,
        fillings: Fillings,
        mounts: ShownMounts,
        root: Path,
        open_image: Callable[[ImageRequest], None],
        tell: Callable[[int, str, int], None],
    ) -> None:
        self._fillings = fillings
        self._mounts = mounts
        self._root = root
        self._open_image = open_image
        self._tell = tell
        # Protects what follows. A leaf.
        self._lock = threading.Lock()
        self._parked: list[Word] = []  # windows of images that are not open (yet)

    @property
    def waiting(self) -> bool:
        """Whether something waits for an image to be opened."""
        return bool(self._parked)

    def need(self, word: Word) -> None:
        """Somebody waits for that much of a window: have it told when it is there, or cannot be had."""
        if not self._fetch(word):
            self._park(word)

    def opened(self) -> None:
        """An image was opened, could not be, or is complete: see what that means for what is parked."""
        with self._lock:
            parked, self._parked = self._parked, []
        for word in parked:
            if self._fetch(word):
                continue
            if self._fillings.opening:
                with self._lock:
                    self._parked.append(word)
            else:
                self._tell(LOST, word.window_id, 0)

    def _fetch(self, word: Word) -> bool:
        """Whether an open image has the window."""
        found = self._fillings.find(word.window_id)
        if found is None:
            return False
        filling, number = found
        filling.reads.note(word.window_id, word.end)

        def tell(error: StoreError | None) -> None:
            if error is None:
                self._tell(HAVE, word.window_id, word.end)
            else:
                self._tell(LOST, word.window_id, 0)
                Later(lambda: self._log_lost(word, error))

        filling.attachment.when_local(number, word.end, tell)
        return True

    def _park(self, word: Word) -> None:
        """Its image is not open: it is being opened, or was let go when it was complete."""
        with self._lock:
            self._parked.append(word)
        for name, request in self._mounts.images().items():
            if self._fillings.of(name) is None:
                self._open_image(request)
        if not self._fillings.opening:
            self.opened()

    def _log_lost(self, word: Word, error: StoreError) -> None:
        """Say which file's read has failed; who says it has to look through the image for that."""
        for name, request in self._mounts.images().items():
            filling = self._fillings.of(name)
            if filling is None or word.window_id not in filling.numbers:
                continue
            image = open_request(replace(request, background=False), self._root)
            image.close()
            windows = [cut_windows(meta) for meta in image.blobs]
            for read in files_of([(word.window_id, word.end, 0.0)], image.bootstrap, windows):
                path = read.path.decode("utf-8", "backslashreplace")
                log.error("read %s: %s: %s", path, type(error).__name__, error, extra={"path": path})
