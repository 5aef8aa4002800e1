"""What can go wrong in the store, one class per decision of the caller.

Not here: what the remote raises (its own types, kept as the cause) and what a hostile blob's tables raise
(`rafs.errors`). Serves the mounts, which turn these into errnos, and the command, which turns them into exit
codes.
"""

from __future__ import annotations


class StoreError(Exception):
    """Root of everything `chunk_store` raises on purpose."""


class ChunkUnavailable(StoreError):
    """The bytes could not be fetched in time. Nothing is wrong with them: the next read tries again.

    `temporary` says whether there is a chance that the same request succeeds later, as the remote said it.
    """

    temporary: bool = False

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class ChunkCorrupt(StoreError):
    """What the remote sends did not match the digest twice in a row. None of it was kept or served."""


class StoreFull(StoreError):
    """The file system takes no more windows. Filling has stopped; readers are still served, from memory, but
    for those who read a window's file themselves.
    """


class WindowsWrong(StoreError):
    """Wrong windows were found that could not be dropped. All of it has been told."""


class StoreUnusable(StoreError):
    """The store's directory cannot be created, locked or checked, or takes no window though it has
    room.
    """


class StoreForbidden(StoreUnusable):
    """It is another user's."""


class StoreWithoutRoom(StoreUnusable):
    """There is no room for what a store needs to be opened; nothing was attached."""


class RangeOutside(StoreError):
    """A read names bytes that no window of the blob holds: the bootstrap and the blob's tables disagree."""
