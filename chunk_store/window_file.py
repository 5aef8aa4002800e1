"""One window on disk, from empty to complete, and the directory that holds them.

The state of a window is the length of its file: none or 0 = absent, less than the window = a verified prefix,
exactly the window = complete. So there is no index that could be wrong. Windows are written in place, front
to back, and are never renamed or unlinked while something may hold them: a live mount would go on reading
the old inode. One whose bytes turned out to be lost or wrong is emptied, which a mount reads as an error
until it is filled again.

This module does not fetch, decode or verify. It serves the fetcher (`WindowDirectory.try_lock`) and the
readers (`open_read`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from chunk_store.doorway import DIRECTORY_MODE, FILE_MODE, WINDOWS, Doorway, Passage, window_place

_IOV_MAX = 1024  # buffers in one call: the kernel's UIO_MAXIOV; a window of small files has many more
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LEASE_SECONDS = 2.0  # who asks `is_held` has his lease for microseconds, and may lose the processor in them
_LEASE_LOOK = 0.001
_ATTEMPTS = 8  # a window file that is swapped under us more often than this is somebody's attack or bug


class LockedWindow:
    """A window file under its exclusive lock. Whoever holds this is the only writer on the machine.

    `size` is the file's length when it was locked; it may exceed the window's if something foreign wrote to
    it. Not thread-safe; close it to let the lock go.
    """

    __slots__ = ("_doorway", "_fd", "_passage", "length", "size")

    def __init__(self, fd: int, length: int, size: int, doorway: Doorway, passage: Passage) -> None:
        self._fd = fd
        self._doorway = doorway
        self._passage = passage
        self.length = length
        self.size = size

    @property
    def complete(self) -> bool:
        """Whether the file had exactly the window's length when it was locked."""
        return self.size == self.length

    def read(self, offset: int, size: int) -> bytes:
        """Return what the file holds at *offset*; shorter where it ends."""
        return os.pread(self._fd, size, offset)

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """Put *pieces*, already verified, one after another at *offset*.

        Raises:
            OSError: the file system took only part of it or nothing; what it took is right. ESTALE: the file
            is to be opened again. Somebody who does not ask for locks has cut it, so writing here would leave
            a hole that reads as zeros; or a keeper watches it by now whom we would wait for.
        """
        if not self._doorway.is_current(self._passage):
            raise OSError(errno.ESTALE, "another keeper watches the window file than when it was opened")
        if os.fstat(self._fd).st_size < offset:
            raise OSError(errno.ESTALE, "the window file was cut while it was being filled")
        left = [memoryview(piece) for piece in pieces if piece]
        done = 0
        while done < len(left):
            written = os.pwritev(self._fd, left[done : done + _IOV_MAX], offset)
            offset += written
            while done < len(left) and written >= len(left[done]):
                written -= len(left[done])
                done += 1
            if written:
                left[done] = left[done][written:]

    def seal(self) -> int:
        """Make the file exactly as long as the window, all of which has been written; return its mtime in ns.

        Only a file that was too long when it was found is cut, and only here: until then its length said "not
        complete".
        """
        if self.size > self.length:
            os.ftruncate(self._fd, self.length)
        return os.fstat(self._fd).st_mtime_ns

    def sync(self) -> None:
        """Write the file back, and have the next `read` come from the disk: what could not be written may
        still lie in the page cache, which calls it clean from then on.

        Raises:
            OSError: some of it could not be written.
        """
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def empty(self) -> None:
        """Make the window absent where it is, whoever holds it: an empty file reads as an error, never as
        wrong bytes. Readers of kernel mounts wait for it again as soon as the keeper knows.

        Raises:
            OSError: the file system does not let it.
        """
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._doorway.watch_again()

    def close(self) -> None:
        """Let the lock go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Removal(Enum):
    """What became of a window that was to go."""

    REMOVED = auto()
    HELD = auto()  # by a mount, a reader, or whoever fills it: it was left alone
    GONE = auto()  # it was not there


def is_held(fd: int) -> bool:
    """Whether anything but *fd*, an open window file, holds that file open: a mount, also one that was lazily
    unmounted, or a reader.

    A moment later the answer may be another; whoever acts on it holds the window's lock and has made sure
    that nobody mounts meanwhile. Where leases do not work, the answer is yes.
    """
    # Whoever opens the file while we have the lease makes the kernel signal us; by default that would kill.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


class WindowDirectory:
    """`ROOT/windows/<first two digits>/<id>`: where window files lie and how they are opened. Thread-safe."""

    def __init__(self, root: Path, *, only: Container[str] | None = None) -> None:
        """*only*: ids of the windows that may be relied on; the others are not there. None: all."""
        self.path = root / WINDOWS
        self._prefix = os.fspath(self.path)
        self._only = only
        self._doorway = Doorway(root)

    def close(self) -> None:
        """Give up what keeps the file system busy; using the directory again gets it again."""
        self._doorway.close()

    def size(self, window_id: str) -> int:
        """The file's length in bytes; 0 where there is none, -1 where something else has its name."""
        if self._only is not None and window_id not in self._only:
            return 0
        try:
            found = os.lstat(self._name(window_id))
        except (FileNotFoundError, NotADirectoryError):
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else -1

    def open_read(self, window_id: str, length: int | None) -> int | None:
        """Return a descriptor for reading; None where the file is missing, no file, or not *length* bytes
        long.

        *length* None accepts any length: the caller knows which prefix of it is good.
        """
        if self._only is not None and window_id not in self._only:
            return None
        try:
            fd, _ = self._open(window_id, os.O_RDONLY | _FLAGS)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EACCES):
                return None
            raise
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and length in (None, found.st_size):
            return fd
        os.close(fd)
        return None

    def try_lock(self, window_id: str, length: int) -> LockedWindow | None:
        """Open or create the window's file and lock it; None while another process or attachment fills it.

        Raises:
            OSError: the file system refuses (full, read-only, no permission).
        """
        name = self._name(window_id)
        for _ in range(_ATTEMPTS):
            fd, passage = self._open_write(window_id)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            held = os.fstat(fd)
            # Between open and lock the file may have been evicted or replaced; a lock on an unlinked inode
            # guards nothing.
            if _leads_to(name, held):
                return LockedWindow(fd, length, held.st_size, self._doorway, passage)
            os.close(fd)
        raise OSError(errno.EBUSY, "the window file is replaced each time it is opened", name)

    def reserve(self, window_ids: Iterable[str]) -> None:
        """Make sure that each window has a file, empty where it is absent: a mount is about to hold it.

        Raises:
            OSError: the file system refuses (full, read-only, no permission).
        """
        for window_id in sorted(window_ids):
            if self.size(window_id) > 0:
                continue
            name = self._name(window_id)
            try:
                # Thousands at once, before a mount: half the time of opening and closing each.
                try:
                    os.mknod(name, stat.S_IFREG | FILE_MODE)
                except FileNotFoundError:
                    self._make_shelf(name)
                    os.mknod(name, stat.S_IFREG | FILE_MODE)
            except FileExistsError:
                if self.size(window_id) < 0:
                    os.close(self._open_write(window_id)[0])

    def remove(self, window_id: str) -> Removal:
        """Unlink the window's file unless something holds it or somebody fills it.

        A reader that opens it in this very moment keeps a file that is no worse than it was; a kernel mount
        looks at its windows once more when it holds them.

        Raises:
            OSError: the file system refuses (read-only, no permission).
        """
        name = self._name(window_id)
        try:
            fd, _ = self._doorway.open(window_place(window_id), os.O_RDWR | _FLAGS)
        except FileNotFoundError:
            return Removal.GONE
        except BlockingIOError:
            return Removal.HELD  # somebody else has its lease, perhaps to remove it
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _leads_to(name, os.fstat(fd)):
                return Removal.GONE
            if is_held(fd):
                return Removal.HELD
            os.unlink(name)  # noqa: PTH108
        except BlockingIOError:
            return Removal.HELD
        finally:
            os.close(fd)
        return Removal.REMOVED

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield (name, path) of every entry two levels below, whatever it is, in no particular order."""
        try:
            shelves = list(os.scandir(self._prefix))
        except FileNotFoundError:
            return
        for shelf in shelves:
            if shelf.is_dir(follow_symlinks=False):
                with os.scandir(shelf.path) as entries:
                    for entry in entries:
                        yield entry.name, entry.path

    def _name(self, window_id: str) -> str:
        return f"{self._prefix}/{window_place(window_id)}"

    def _open(self, window_id: str, flags: int) -> tuple[int, Passage]:
        until = time.monotonic() + _LEASE_SECONDS
        while True:
            try:
                return self._doorway.open(window_place(window_id), flags, FILE_MODE)
            except BlockingIOError:
                # Somebody has the file's lease (`is_held`), and we do not wait in `open`: it may be a pipe.
                if time.monotonic() > until:
                    raise
            time.sleep(_LEASE_LOOK)

    def _open_write(self, window_id: str) -> tuple[int, Passage]:
        name = self._name(window_id)
        for _ in range(_ATTEMPTS):
            try:
                fd, passage = self._open(window_id, os.O_RDWR | os.O_CREAT | _FLAGS)
            except FileNotFoundError:
                self._make_shelf(name)
                continue
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENXIO):
                    raise
            else:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    return fd, passage
                os.close(fd)
            # A link or a pipe under a window's name is no window, so nothing can hold it as one: it goes.
            if not stat.S_ISREG(os.lstat(name).st_mode):
                os.unlink(name)  # noqa: PTH108
        raise OSError(errno.EBUSY, "something that is not a file keeps the window's name", name)

    def _make_shelf(self, name: str) -> None:
        # One by one: `parents=True` gives only the last of them the mode.
        for directory in (self._prefix, name.rpartition("/")[0]):
            with suppress(FileExistsError):
                os.mkdir(directory, DIRECTORY_MODE)  # noqa: PTH102


def _leads_to(name: str, held: os.stat_result) -> bool:
    try:
        named = os.lstat(name)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
