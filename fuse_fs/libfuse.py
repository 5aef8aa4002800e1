"""Serve an image tree through libfuse 2, as `session` does without: the only module that touches fusepy.

For kernels that our own protocol does not suit, and to hold the two against each other: both show the same.
It costs several times as much per request, and a process for each mount.

fusepy gives the declarations (structures, prototypes); its generic dispatch is left out because it costs more
than our work per call. Each callback takes the C arguments, asks the tree, and answers completely or with an
errno. It does not decide where to mount, does not fork, and knows nothing of registries.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from chunk_store.recent_failures import RecentFailures
from fuse_fs.answers import errno_of, is_failure
from fuse_fs.errors import FuseMissing, MountFailed
from fuse_fs.failure_lines import FailureLines
from fuse_fs.mount_options import SUBTYPE, fsname_option
from fuse_fs.operations import FOREVER, PARALLEL_READS
from fuse_fs.paths import TreeByPath
from fuse_fs.tree import BLOCK, ImageTree
from fuse_fs.waited import may_wait_until
from fuse_fs.wake_ups import STOPPING
from rafs.directory import name_text

LIBFUSE = "libfuse.so.2"
# open, opendir, release: not given, libfuse then answers without asking us. flush, access: answered once
# with ENOSYS, and the kernel never asks again; permissions are the kernel's (`default_permissions`).
CALLBACKS = ("init", "getattr", "fgetattr", "readlink", "readdir", "read", "statfs", "listxattr")
# Without any xattr in the image the kernel is told so once; overlayfs else asks several times per look-up.
XATTR_CALLBACKS = ("getxattr",)

_WAKE = signal.SIGUSR1


def options_for(fsname: str, *, allow_other: bool) -> str:
    """The mount options as libfuse takes them."""
    options = [
        "ro",
        "default_permissions",
        "kernel_cache",  # else every open drops the file's cached pages
        "use_ino",
        f"entry_timeout={FOREVER}",
        f"attr_timeout={FOREVER}",
        f"negative_timeout={FOREVER}",
        f"max_background={PARALLEL_READS}",
        f"congestion_threshold={PARALLEL_READS * 3 // 4}",
        fsname_option(fsname),
        f"subtype={SUBTYPE}",
    ]
    if allow_other:
        options.append("allow_other")
    if os.geteuid() == 0:
        # libfuse adds nosuid and nodev for ordinary users by itself; images hold set-uid programs.
        options += ["suid", "dev"]
    return ",".join(options)


def load_libfuse() -> tuple[ModuleType, ctypes.CDLL]:
    """fusepy and the library under it.

    Raises:
        FuseMissing: a part is not installed; the message names its package.
    """
    # By name: fusepy's own search starts compilers and takes longer than the mount.
    os.environ.setdefault("FUSE_LIBRARY_PATH", LIBFUSE)
    try:
        library = ctypes.CDLL(os.environ["FUSE_LIBRARY_PATH"])
        import fuse
    except OSError as error:
        raise FuseMissing(
            f"mounting through FUSE: {LIBFUSE} cannot be loaded ({error}); install the package libfuse2"
        ) from error
    except ImportError as error:
        raise FuseMissing(
            f"mounting through FUSE: fusepy is not installed ({error}); install nopull with its dependencies"
        ) from error
    if os.geteuid() != 0 and shutil.which("fusermount") is None:
        raise FuseMissing("mounting through FUSE without root: no fusermount here; install the package fuse3")
    return fuse, library


def serve(
    tree: ImageTree,
    mountpoint: Path,
    *,
    on_ready: Callable[[], None],
    allow_other: bool,
    fsname: str,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Mount *tree* on *mountpoint* and answer until it is unmounted; then return.

    Must be called in the main thread. *on_ready* is called from another thread once the kernel has taken up
    the mount; it must not look at *mountpoint* itself (a thread it starts may). SIGTERM, SIGINT and SIGHUP
    unmount: *on_stop* is called, which should make reads that wait for something fail, and the mount is
    detached even if it is in use.

    Raises:
        FuseMissing: this machine cannot do FUSE.
        MountFailed: libfuse or the kernel refused; the reason was written to standard error.
    """
    fuse, library = load_libfuse()
    callbacks = Callbacks(tree, fuse, on_ready)
    operations, lines = fuse.fuse_operations(), FailureLines()
    prototypes = dict(field[:2] for field in fuse.fuse_operations._fields_)
    for name in (*CALLBACKS, *(XATTR_CALLBACKS if tree.has_xattrs else ())):
        setattr(operations, name, prototypes[name](_answering(getattr(callbacks, name), lines)))

    words = [b"nopull", b"-f", b"-o", options_for(fsname, allow_other=allow_other).encode()]
    words.append(os.fsencode(mountpoint))
    place, threads = ctypes.c_void_p(), ctypes.c_int()
    library.fuse_setup.restype = ctypes.c_void_p
    sessions: list[ctypes.c_void_p] = []
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        for session in sessions:
            library.fuse_exit(session)
        on_stop()

    with _stopping_on_signals(stop):
        session = library.fuse_setup(
            len(words),
            (ctypes.c_char_p * len(words))(*words),
            ctypes.byref(operations),
            ctypes.c_size_t(ctypes.sizeof(operations)),
            ctypes.byref(place),
            ctypes.byref(threads),
            None,
        )
        if not session:
            raise MountFailed(f"mounting on {mountpoint} through FUSE: libfuse or the kernel refused")
        sessions.append(ctypes.c_void_p(session))
        if not stopped.is_set():
            library.fuse_loop_mt(sessions[0])
        library.fuse_teardown(sessions[0], place)


class Callbacks:
    """libfuse's questions with their C arguments; each returns 0 or a length, or raises for `answers`."""

    def __init__(self, tree: ImageTree, fuse: ModuleType, on_ready: Callable[[], None]) -> None:
        self._tree = TreeByPath(tree)
        self._on_ready = on_ready
        self._new_stat = fuse.c_stat
        self._context: Callable[[], tuple[int, int, int]] = fuse.fuse_get_context
        self._failed: RecentFailures[bytes] = RecentFailures()  # by path

    def init(self, _: Any) -> int:
        self._on_ready()
        return 0

    def getattr(self, path: bytes, answer: Any) -> int:
        inode = self._tree.inode(path)
        shown = answer.contents
        shown.st_ino = inode.nid
        shown.st_mode = inode.mode
        shown.st_nlink = inode.nlink
        shown.st_uid = inode.uid
        shown.st_gid = inode.gid
        shown.st_rdev = inode.rdev
        shown.st_size = inode.size
        shown.st_blksize = BLOCK
        shown.st_blocks = -(-inode.size // BLOCK) * (BLOCK // 512)
        for times in (shown.st_atimespec, shown.st_mtimespec, shown.st_ctimespec):
            times.tv_sec = inode.mtime
            times.tv_nsec = inode.mtime_ns
        return 0

    def fgetattr(self, path: bytes, answer: Any, _: Any) -> int:
        return self.getattr(path, answer)

    def readlink(self, path: bytes, answer: Any, size: int) -> int:
        target = self._tree.symlink_target(path)[: size - 1] + b"\0"
        ctypes.memmove(answer, target, len(target))
        return 0

    def readdir(self, path: bytes, listing: int, add: Callable[..., int], _: int, __: Any) -> int:
        # Offset 0 with every name: libfuse then keeps the whole listing and asks once.
        shown = self._new_stat()
        pointer = ctypes.pointer(shown)
        for name, nid, type_bits in self._tree.entries(path):
            shown.st_ino = nid
            shown.st_mode = type_bits
            if add(listing, name, pointer, 0):
                raise MemoryError(f"listing {name_text(path)}")
        return 0

    def read(self, path: bytes, answer: Any, size: int, offset: int, _: Any) -> int:
        asker, since = self._asker(), time.monotonic()
        until = may_wait_until(
            self._failed, path, asker, offset, since, lambda: self._tree.is_local(path, offset, size)
        )
        try:
            content = self._tree.read(path, offset, size, until)
        except BaseException as error:
            if is_failure(error):
                self._failed.note(path, asker, offset, offset + size, since)
            raise
        ctypes.memmove(answer, content, len(content))
        return len(content)

    def _asker(self) -> int:
        """The thread that asks, as it is seen from here."""
        _, _, pid = self._context()
        return pid

    def statfs(self, _: bytes, answer: Any) -> int:
        space, shown = self._tree.space(), answer.contents
        shown.f_bsize = shown.f_frsize = BLOCK
        shown.f_blocks, shown.f_files = space.blocks, space.inodes
        shown.f_bfree = shown.f_bavail = shown.f_ffree = shown.f_favail = 0
        shown.f_namemax = 255
        return 0

    def listxattr(self, path: bytes, answer: Any, size: int) -> int:
        return _give(b"".join(name + b"\0" for name in self._tree.xattr_names(path)), answer, size)

    def getxattr(self, path: bytes, name: bytes, answer: Any, size: int) -> int:
        return _give(self._tree.xattr(path, name), answer, size)


def _give(value: bytes, answer: Any, size: int) -> int:
    """As getxattr(2) answers: without room only the length, with too little of it ERANGE."""
    if not size:
        return len(value)
    if len(value) > size:
        return -errno.ERANGE
    ctypes.memmove(answer, value, len(value))
    return len(value)


def _answering(callback: Callable[..., int], lines: FailureLines) -> Callable[..., int]:
    """*callback* for C: what it raises becomes an errno, and one of *lines* if it is a failure."""

    def answer(*arguments: Any) -> int:
        try:
            return callback(*arguments)
        # Whatever escaped would be printed by ctypes and answered as 0: an empty file, a success.
        except BaseException as error:  # noqa: BLE001
            path = arguments[0] if isinstance(arguments[0], bytes) else b"the mount"
            lines.note(callback.__name__, error, lambda: path)
            return -errno_of(error)

    return answer


@contextlib.contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """While entered, SIGTERM, SIGINT and SIGHUP call *stop*, and then end the main thread's waiting.

    The main thread is inside libfuse and runs no Python; libfuse's own handlers wait for callbacks under way,
    which may be waiting for the network, and are not heard when another thread gets the signal. So Python's
    part that runs at once, the wake-up descriptor, tells a thread of ours.
    """
    ended = threading.Event()
    main = threading.get_ident()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)

    def watch() -> None:
        while not STOPPING.intersection(os.read(reading, 64)):
            if ended.is_set():
                return
        stop()
        # Again and again: a signal that comes just before libfuse begins to wait is lost.
        while not ended.wait(0.1):
            signal.pthread_kill(main, _WAKE)

    before = {number: signal.signal(number, lambda *_: None) for number in (*STOPPING, _WAKE)}
    descriptor_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="nopull-signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b"\0")
        watcher.join()
        signal.set_wakeup_fd(descriptor_before)
        for number, previous in before.items():
            signal.signal(number, previous)
        os.close(reading)
        os.close(writing)
