"""The images of one store that are being filled, each once, however many mounts show it.

Opens them, attaches them to the store, finds the one that has a window, and lets go of what is complete.
Knows no mounts and no keeper. Serves `filler`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chunk_store import Attachment, ChunkStore, Readers
from launch.errors import FillerEnds
from launch.images.hot_list import hot_ranges
from launch.images.lazy_image import LazyImage
from launch.kernel_mounts.window_reads import WindowReads
from launch.later import Later
from registry_client.errors import Unreachable
from registry_client.source import ImageSource

log = logging.getLogger("nopull.filler")

_REST_SECONDS = 0.5  # between two attempts to open an image: each reader that comes asks for one
_OPENING_SECONDS = 60.0  # in which an image whose remote is away is tried again, as fetches are


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """An image of which something may be missing."""

    attachment: Attachment
    numbers: Mapping[str, int]  # of its windows, by their ids
    source: ImageSource | None  # its connections, the filling's own
    reads: WindowReads


class Fillings:
    """By name, which says exactly what an image is. Thread-safe.

    Parameters:
        on_present: called with the id of each window that has become complete, by any thread.
        on_change: called when an image was opened, could not be, or is complete, by any thread.
    """

    def __init__(
        self, store: ChunkStore, on_present: Callable[[str], None], on_change: Callable[[], None]
    ) -> None:
        self._store = store
        self._on_present = on_present
        self._on_change = on_change
        self._closing = threading.Event()
        # Protects the four below. A leaf; images are opened and closed outside.
        self._lock = threading.Lock()
        self._open: dict[str, Filling] = {}
        self._opening: dict[str, Later[Filling]] = {}
        self._at_hand: dict[str, Callable[[], LazyImage]] = {}  # for what is being opened
        self._failed: dict[str, float] = {}  # when, of those whose last opening did

    def begin(
        self, name: str, open_it: Callable[[], LazyImage], *, background: bool, at_hand: bool = False
    ) -> Later[Filling]:
        """The filling of *name*, soon; it is begun with what *open_it* returns unless it was before.

        The image's source is the filling's then. What could not be opened just now rests first, and whoever
        asks meanwhile waits with it: refused at once, readers would ask as fast as they can, and fail again
        when the remote is back. So they would if they alone had it tried again: the keeper does not ask for
        those whom it refuses. *at_hand*: the image is open; who tries in vain to open it takes that one. In
        the background it is filled as soon as one asks for that.
        """
        with self._lock:
            known = self._open.get(name)
            if known is None and at_hand:
                self._at_hand[name] = open_it
            begun = self._opening.get(name) if known is None else Later(lambda: known)
            if begun is None:
                begun = self._opening[name] = Later(lambda: self._begin(name, open_it, background))
                return begun
        return Later(lambda: _joined(begun, background))

    def find(self, window_id: str) -> tuple[Filling, int] | None:
        """Which image has the window, and its number there."""
        for filling in list(self._open.values()):
            number = filling.numbers.get(window_id)
            if number is not None:
                return filling, number
        return None

    def of(self, name: str) -> Filling | None:
        """The filling of *name*, if it has begun and not ended."""
        return self._open.get(name)

    def names(self) -> set[str]:
        """Of all that are open."""
        return set(self._open)

    @property
    def busy(self) -> bool:
        """Whether an image is being opened, or something of an open one is missing."""
        with self._lock:
            return bool(self._opening) or any(not one.attachment.complete for one in self._open.values())

    @property
    def opening(self) -> bool:
        """Whether an image is being opened."""
        return bool(self._opening)

    def complete(self) -> list[tuple[str, Filling]]:
        """Those of which nothing is missing any more, by name."""
        with self._lock:
            return [(name, one) for name, one in self._open.items() if one.attachment.complete]

    def look_again(self) -> None:
        """Notice what other processes have completed meanwhile."""
        for filling in list(self._open.values()):
            filling.attachment.look_again()

    def let_go(self, name: str) -> None:
        """Fill *name* no longer."""
        with self._lock:
            filling = self._open.pop(name, None)
        if filling is not None:
            filling.attachment.close()
            if filling.source is not None:
                filling.source.close()

    def close(self) -> None:
        """Fill nothing any more."""
        self._closing.set()
        for name in list(self._open):
            self.let_go(name)

    def _begin(self, name: str, open_it: Callable[[], LazyImage], background: bool) -> Filling:
        give_up = time.monotonic() + _OPENING_SECONDS
        try:
            while True:
                try:
                    self._rest(name)
                    return self._opened(name, self._at_hand.get(name, open_it)(), background)
                except BaseException as error:
                    with self._lock:
                        self._failed[name] = time.monotonic()
                    if not isinstance(error, Unreachable) or time.monotonic() >= give_up:
                        raise
        finally:
            with self._lock:
                self._opening.pop(name, None)
                self._at_hand.pop(name, None)
            self._on_change()

    def _opened(self, name: str, image: LazyImage, background: bool) -> Filling:
        attachment = self._store.attach(
            image.blobs,
            image.blob_source,
            hot=hot_ranges(image.bootstrap),
            background=background,
            readers=Readers.OF_FILES,
            on_present=lambda window_id: self._present(name, window_id),
        )
        # Not the image: its tree is of no use here, and larger than everything else.
        filling = Filling(attachment, attachment.window_numbers(), image.source, WindowReads())
        with self._lock:
            self._open[name] = filling
            self._failed.pop(name, None)
        return filling

    def _rest(self, name: str) -> None:
        failed = self._failed.get(name)
        rest = 0.0 if failed is None else failed + _REST_SECONDS - time.monotonic()
        if rest > 0 and self._closing.wait(rest):
            raise FillerEnds("the filler ends")

    def _present(self, name: str, window_id: str) -> None:
        self._on_present(window_id)
        filling = self._open.get(name)
        if filling is not None and filling.attachment.complete:
            self._on_change()


def _joined(begun: Later[Filling], background: bool) -> Filling:
    filling = begun.result()
    if background:
        filling.attachment.start_background()
    return filling
