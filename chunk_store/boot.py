"""Opening a store: its directory, its lock, and what an unclean boot may have damaged.

A window's length is trusted while the kernel that wrote it runs, because a file grows only after its bytes
are in the page cache. A new boot id means that the page cache is gone, so everything that is not in the
durable record (`sums`) is dropped then, once, by the first process that opens the store, under the exclusive
lock. Everyone else holds the shared lock for as long as it lives, which says that the store has been checked.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from chunk_store import local_chunks, sums
from chunk_store.doorway import DIRECTORY_MODE, FILE_MODE, prepare_number
from chunk_store.errors import StoreForbidden, StoreUnusable, StoreWithoutRoom
from chunk_store.free_room import FULL_ERRNOS, free_room
from chunk_store.window_file import WindowDirectory

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOCK = "windows.lock"  # holds the boot id under which the store was last checked
_BLOCK = 1 << 18
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the check after a new boot did: windows kept because they are recorded, windows dropped.

    `only` is set where nothing could be dropped, because the store cannot be written: the windows that may be
    relied on.
    """

    kept: int
    dropped: int
    only: frozenset[str] | None = None


def current_boot() -> str:
    """This boot's id, as the kernel tells it."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def open_store(root: Path, boot_id: str) -> tuple[int, Recovery | None]:
    """Create *root* if need be, check it if it was last used under another boot, return (shared lock's
    descriptor, what was done).

    A root that is there and cannot be written is opened to be read, which is logged; under another boot no
    lock is held on it then. The caller closes the descriptor to let the store go. Waits while another process
    checks the store.

    Raises:
        StoreUnusable: the directory cannot be created, locked or checked (StoreForbidden: by this user).
    """
    fd = -1
    try:
        root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        fd = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        prepare_number(root)
        recovery = _share_checked(fd, root, boot_id)
        # A descriptor for writing would keep the file system from being made read-only while we live.
        held, fd = fd, os.open(root / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        finally:
            os.close(held)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        if error.errno in _UNWRITABLE and root.is_dir():
            return _open_unwritable(root, boot_id, error)
        said = f"opening the store {root}: {error.strerror or error}"
        if error.errno in FULL_ERRNOS:
            said += free_room(root)
            raise StoreWithoutRoom(f"{said}; free some, or choose another with --root") from error
        raise _unusable(said, error) from error
    if recovery is not None and recovery.dropped:
        log.warning(
            "store %s: the machine went down since the last checkpoint; dropped %d windows, kept %d",
            root,
            recovery.dropped,
            recovery.kept,
        )
    return fd, recovery


def _share_checked(fd: int, root: Path, boot_id: str) -> Recovery | None:
    """Hold *fd*'s shared lock on a store that was checked under this boot, if need be here; what was done."""
    while True:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if _checked_under(fd) == boot_id:
            return None
        fcntl.flock(fd, fcntl.LOCK_UN)
        try:
            # Never waited for: who was faster and has checked holds the shared lock for as long as it lives.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001 + os.urandom(1)[0] / 25600)  # not in step with another one that looks, too
            continue
        recovery = None
        if _checked_under(fd) != boot_id:
            recovery = _recover(root)
            os.ftruncate(fd, 0)
            os.pwrite(fd, boot_id.encode("ascii"), 0)
            os.fsync(fd)
        fcntl.flock(fd, fcntl.LOCK_SH)
        return recovery


def _open_unwritable(root: Path, boot_id: str, reason: OSError) -> tuple[int, Recovery | None]:
    """As `open_store`, of a store that cannot be written."""
    try:
        fd = os.open(root / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            recovery = None
            if _checked_under(fd) != boot_id:
                kept = frozenset(s.window_id for s in _survivors(WindowDirectory(root), sums.load(root)))
                recovery = Recovery(kept=len(kept), dropped=0, only=kept)
                # Who can write takes a shared lock as a sign that the store has been checked and would wait
                # for us for ever. He drops nothing that we rely on: he keeps the same windows.
                fcntl.flock(fd, fcntl.LOCK_UN)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        said = f"opening the store {root}: {reason.strerror}, and reading what is there: {error.strerror}"
        raise _unusable(said, error) from error
    log.warning(
        "store %s cannot be written (%s): what it has is read, the rest is fetched into memory",
        root,
        reason.strerror,
    )
    return fd, recovery


def _unusable(said: str, error: OSError) -> StoreUnusable:
    kind = StoreForbidden if isinstance(error, PermissionError) else StoreUnusable
    return kind(f"{said}; choose another with --root")


def _checked_under(fd: int) -> str:
    return os.pread(fd, 64, 0).decode("ascii", "replace").strip()


def _recover(root: Path) -> Recovery:
    recorded = sums.load(root)
    kept = list(_survivors(WindowDirectory(root), recorded))
    dropped = _drop_others(WindowDirectory(root), {found.window_id for found in kept})
    if recorded or kept:
        sums.replace(root, kept)
    local_chunks.keep_only(root, {found.window_id for found in kept})
    return Recovery(kept=len(kept), dropped=dropped)


def _survivors(directory: WindowDirectory, recorded: dict[str, sums.Sum]) -> Iterator[sums.Sum]:
    for name, path in directory.names():
        record = recorded.get(name)
        if record is not None and _still_holds(Path(path), record):
            yield record


def _still_holds(path: Path, record: sums.Sum) -> bool:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size != record.length:
        return False
    if found.st_mtime_ns == record.mtime_ns:
        return True
    with path.open("rb", buffering=0) as file:
        return checksum(file.fileno()) == record.checksum


def checksum(fd: int) -> int:
    """XXH3-64 of the bytes from where *fd* stands to the file's end."""
    digest = xxhash.xxh3_64()
    while block := os.read(fd, _BLOCK):
        digest.update(block)
    return digest.intdigest()


def _drop_others(directory: WindowDirectory, keep: set[str]) -> int:
    dropped = 0
    for name, path in directory.names():
        if name in keep:
            continue
        found = Path(path)
        if found.is_dir() and not found.is_symlink():
            continue
        # An empty file is an absent window that a mount of the last boot held open; it costs nothing to count
        # it out.
        dropped += found.lstat().st_size > 0
        found.unlink()
    return dropped
