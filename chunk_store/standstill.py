"""Why filling stands still, if it does: the file system takes no more, or the remote does not give.

Pure bookkeeping; the scheduler calls it under its lock.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from chunk_store.errors import (
    ChunkCorrupt,
    ChunkUnavailable,
    StoreError,
    StoreForbidden,
    StoreFull,
    StoreUnusable,
)
from chunk_store.free_room import FULL_ERRNOS, free_room
from rafs.counted import counted


class LimitReached(OSError):
    """The store's own limit refuses a window, not its file system: files that are needed go beyond it."""


class Readers(Enum):
    """Who reads what an attachment fetches, and so what it means that a window cannot be kept."""

    HERE = "readers are served from memory"  # through `Attachment.read`
    OF_FILES = "kernel mounts meanwhile answer reads of absent data with errors"
    NONE = ""  # it is fetched for later

    def refusal(self, window_id: str, error: OSError, place: Path) -> StoreError:
        """That the window is not kept in *place*, because of *error*, what follows for them and what can be
        done; for people.
        """
        follows, room = self.value, ""
        kind: type[StoreError] = StoreFull
        advice = "choose another place with --root"
        if isinstance(error, LimitReached):
            if self is Readers.OF_FILES:
                follows = "what is read of kernel mounts goes beyond it"
            advice = "unmount what is not needed, or give it more with --cache-size"
        elif error.errno in FULL_ERRNOS:
            room = free_room(place)
            advice = f"free some there (`nopull cache gc` may), or {advice}"
        else:
            kind = StoreForbidden if isinstance(error, PermissionError) else StoreUnusable
        said = f"cannot keep window {window_id[:16]} in {place}: {error.strerror or error}{room}"
        return kind("; ".join(filter(None, (said, follows, advice))))


class Standstill:
    """Nothing stands in the way at first."""

    def __init__(self) -> None:
        self.full: StoreError | None = None  # the disk, or its limit
        self._at_limit = False  # it is the store's own limit, for what nobody waits for
        self._trouble: StoreError | None = None  # with the remote

    @property
    def reason(self) -> StoreError | None:
        """What stands in the way."""
        return self.full or self._trouble

    def disk_refused(self, refusal: StoreError, *, at_limit: bool = False) -> None:
        """The file system takes no more; *at_limit*: it would, but the store's limit keeps out what nobody
        waits for.
        """
        self.full = refusal
        self._at_limit = at_limit

    def remote_failed(self, error: StoreError) -> None:
        """The remote does not give a window."""
        self._trouble = error

    def window_completed(self, *, written: bool, for_reader: bool) -> None:
        """Whatever stopped the rest is over; *written*: by us, so the disk has room; *for_reader*: who pushes
        others out at the limit, so there the rest still has none.
        """
        if written and not (self._at_limit and for_reader):
            self.full = None
        if not isinstance(self._trouble, ChunkCorrupt):
            self._trouble = None

    def raise_hopeless(self, missing: int, broken: int) -> None:
        """Raise if *missing* windows will not come by waiting; *broken* of them are wrong at their source.

        Raises:
            StoreFull, StoreUnusable: the file system takes no more.
            ChunkCorrupt: all that are missing are broken.
            ChunkUnavailable: the remote failed in a way that trying again cannot mend.
        """
        if self.full is not None:
            raise type(self.full)(*self.full.args)
        if broken and broken == missing:
            raise ChunkCorrupt(f"wrong at the source: {counted(broken, 'window')}: {self._trouble}")
        if isinstance(self._trouble, ChunkUnavailable) and not self._trouble.temporary:
            raise ChunkUnavailable(*self._trouble.args) from self._trouble
