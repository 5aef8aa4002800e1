"""The chunk store: one directory of windows, shared by images, mounts and processes.

What it keeps for all its images is here; one image's blobs bound to it are an `attachment`. How windows lie
on disk, are fetched, scheduled and recorded is in the modules beside it, and in docs/store.md together with
the order of all locks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from chunk_store.attachment import LEAVE_SECONDS, Attachment, Shared
from chunk_store.boot import current_boot, open_store
from chunk_store.checkpoint import Checkpoints
from chunk_store.errors import StoreUnusable
from chunk_store.limits import Limits
from chunk_store.memory_windows import MemoryWindows
from chunk_store.open_windows import OpenWindows
from chunk_store.remote import BlobSource
from chunk_store.standstill import Readers
from chunk_store.waiting import Waiting
from chunk_store.window_file import WindowDirectory
from rafs.blob_meta import BlobMeta

if TYPE_CHECKING:
    from chunk_store.quota import Quota


class ChunkStore:
    """A store below *root*, which is created if need be. Thread-safe; open it after forking, not before.

    Parameters:
        limits: time, connections and memory; see `Limits`.
        boot_id: the id of this boot, which decides whether windows written earlier are to be trusted;
            default: the kernel's.

    Raises:
        StoreUnusable: the directory cannot be created, locked or checked.
    """

    def __init__(self, root: Path, *, limits: Limits | None = None, boot_id: str | None = None) -> None:
        self.root = root
        self.limits = limits or Limits()
        self._lock_fd, self.recovery = open_store(root, boot_id or current_boot())
        self.directory = WindowDirectory(root, only=self.recovery.only if self.recovery else None)
        self.open_windows = OpenWindows(self.directory)
        self.memory = MemoryWindows(self.limits.memory_bytes)
        try:
            self.checkpoints = Checkpoints(root)
        except OSError as error:
            os.close(self._lock_fd)
            raise StoreUnusable(f"opening the store {root}: {error.strerror or error}") from error
        self.waiting = Waiting()
        self.quota: Quota | None = None
        self.bound(self.limits.cache_bytes)
        # Protects `_attachments` and `_lock_fd`. A leaf.
        self._lock = threading.Lock()
        self._attachments: set[Attachment] = set()

    def attach(
        self,
        blobs: Sequence[BlobMeta],
        source: BlobSource,
        *,
        hot: Sequence[tuple[int, int, int]] = (),
        background: bool = True,
        readers: Readers = Readers.HERE,
        on_present: Callable[[str], None] | None = None,
    ) -> Attachment:
        """Bind *blobs* to this store and to *source*, which stays the caller's and must outlive the
        attachment.

        Parameters:
            hot: (position in *blobs*, offset, size) in the blobs' uncompressed address spaces, in the order
                in which they will be needed. Fetching them starts at once.
            background: fetch everything else behind that; False leaves it to readers until
                `start_background`.
            readers: who reads what is fetched, for what is said when a window cannot be kept.
            on_present: called with the id of each window that becomes complete from now on, whoever filled
                it, by any thread and under no lock.

        Raises:
            RangeOutside: *hot* names bytes that no window holds.
        """
        shared = Shared(
            root=self.root,
            limits=self.limits,
            directory=self.directory,
            open_windows=self.open_windows,
            memory=self.memory,
            checkpoints=self.checkpoints,
            waiting=self.waiting,
            quota=self.quota,
        )
        attachment = Attachment(
            shared,
            blobs,
            source,
            hot,
            background=background,
            readers=readers,
            on_present=on_present,
            closed=self._forget,
        )
        with self._lock:
            self._attachments.add(attachment)
        return attachment

    def bound(self, cache_bytes: int | None) -> None:
        """Let windows occupy at most *cache_bytes* from now on; None changes nothing.

        Holds for attachments that are made later, and for earlier ones if there was a limit before.
        """
        if cache_bytes is None:
            return
        if self.quota is not None:
            self.quota.limit = cache_bytes
            return
        from chunk_store.quota import Quota  # here, because few stores have one and starts are to be fast

        self.quota = Quota(self.root, self.directory, self.open_windows, cache_bytes)

    def close(self) -> None:
        """Close every attachment, record what was completed, let the store go. Takes a second at most."""
        with self._lock:
            attachments = list(self._attachments)
        for attachment in attachments:
            attachment.close()
        self.checkpoints.close(LEAVE_SECONDS)
        self.open_windows.close()
        self.directory.close()
        with self._lock:
            fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def _forget(self, attachment: Attachment) -> None:
        with self._lock:
            self._attachments.discard(attachment)
            last = not self._attachments
        if last:
            self.checkpoints.flush(LEAVE_SECONDS)

    def __enter__(self) -> ChunkStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
