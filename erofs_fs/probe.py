"""Does this machine's EROFS behave as our mounts rely on? Asked of the kernel, not of its version.

A tiny image with one empty window is mounted, nowhere. A read must be an error, not zeros, and right as soon
as the window is there: kernels before 6.18.44 show zeros for what is absent; such a mount would lie. For a
mount that is filled while it is read, the kernel must ask before it reads, name the range, and not ask us.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from chunk_store.doorway import window_place
from chunk_store.named_file import named
from erofs_fs import fanotify, syscalls
from erofs_fs.errors import ErofsForbidden, ErofsMissing
from erofs_fs.mount import detached
from rafs.codes import BLOCK, CHUNK_FORMAT_INDEXES, LAYOUT_CHUNKS, LAYOUT_INLINE, TYPE_DIRECTORY, TYPE_REGULAR
from rafs.directory_writer import pack_directory
from rafs.localised import pack_front
from rafs.records import CHUNK_ENTRY, INODE_EXTENDED, ChunkEntry, InodeExtended, Superblock
from rafs.window_slots import WindowDevice
from rafs.windows import WindowId

_WINDOW = WindowDevice(WindowId("0" * 64), BLOCK)
_CONTENT = bytes(range(256)) * (BLOCK // 256)
_ROOT, _FILE = 2, 8  # nids
_EVENT_SECONDS = 5.0


class _Ground(NamedTuple):
    """A mount of the probe's image, and what it is made of."""

    mount: int  # descriptor of its root
    window: Path


def probe(root: Path) -> None:
    """Return if images whose windows are all there can be mounted from the state root *root*, which must
    exist and be writable. Takes some milliseconds.

    Raises:
        ErofsMissing: this kernel or the file system of *root* cannot do it, or would show zeros.
        ErofsForbidden: not root.
        OSError: *root* cannot be written.
    """
    with _ground(root, lambda _: None) as ground:
        if _read(ground.mount) is not None:
            raise ErofsMissing(
                "this kernel shows zeros for what is absent (before 6.18.44 or 7.0); use the driver fuse"
            )
        with named(ground.window):
            ground.window.write_bytes(_CONTENT)
        if _read(ground.mount) != _CONTENT:
            raise ErofsMissing(
                "this kernel does not see what is written to a window below a mount; use the driver fuse"
            )


def probe_events(root: Path) -> None:
    """Return if windows can be filled while they are read, as well as what `probe` asks.

    Raises:
        as `probe`; ErofsMissing also: this kernel does not ask before it reads (6.14), or in another way.
    """
    with ExitStack() as undo:
        try:
            group = fanotify.open_group()
        except OSError as error:
            raise ErofsMissing(
                f"this kernel has no pre-content events ({error.strerror}; Linux 6.14, "
                "CONFIG_FANOTIFY_ACCESS_PERMISSIONS)"
            ) from error
        closing = undo.enter_context(ExitStack())
        closing.callback(os.close, group)
        ground = undo.enter_context(_ground(root, lambda window: _watch(group, window)))
        directory = syscalls.open_tree_clone(os.fsencode(ground.window.parent))
        undo.callback(os.close, directory)
        fanotify.ignore_mount(group, directory)
        # Whatever goes wrong, readers must not wait for ever: first the group goes, then who reads.
        undo.push(closing.pop_all())
        if _read_answered(group, ground.mount, lambda: None) is not None:
            raise ErofsMissing("this kernel shows zeros for what is absent (before 6.18.44 or 7.0)")

        def fill() -> None:
            silent = os.open(ground.window.name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.write(silent, _CONTENT)
            finally:
                os.close(silent)
            fanotify.unwatch(group, directory, ground.window.name)

        if _read_answered(group, ground.mount, fill) != _CONTENT:
            raise ErofsMissing("this kernel does not see what is written to a window while its reader waits")


def _watch(group: int, window: Path) -> None:
    descriptor = os.open(window, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fanotify.watch(group, descriptor)
    except OSError as error:
        raise ErofsMissing(
            f"the file system of {window.parent.parent.parent} has no pre-content events ({error.strerror}): "
            "ext4, xfs and btrfs have; choose another place with --root"
        ) from error
    finally:
        os.close(descriptor)


def _read_answered(group: int, mount: int, prepare: Callable[[], None]) -> bytes | None:
    """What a read of the file gives whose events are answered after *prepare*; None for an error."""
    found: list[bytes | None] = []
    reader = threading.Thread(target=lambda: found.append(_read(mount)), daemon=True)
    reader.start()
    poll = select.poll()
    poll.register(group, select.POLLIN)
    asked = False
    while not found:
        if not poll.poll(50 if asked else 1000 * _EVENT_SECONDS):
            if not asked:
                break
            continue
        for event in fanotify.read_events(group, 4):
            if not asked:
                if (event.offset, event.end) != (0, BLOCK):
                    raise ErofsMissing("this kernel does not say which range of a file is about to be read")
                prepare()
            asked = True
            fanotify.allow(group, event.number)
            os.close(event.number)
    reader.join(_EVENT_SECONDS)
    if not asked or not found:
        raise ErofsMissing("this kernel does not ask before EROFS reads from a file")
    return found[0]


@contextmanager
def _ground(root: Path, before_mount: Callable[[Path], None]) -> Iterator[_Ground]:
    """The probe's image, mounted; *before_mount* is called with its window's file."""
    require_root()
    directory = Path(tempfile.mkdtemp(prefix=".probe-", dir=root))
    try:
        image, hold = directory / "image", directory / "hold"
        window = directory / window_place(_WINDOW.id)
        with named(image):
            image.write_bytes(probe_image())
        window.parent.mkdir()
        for path in (window, hold):
            path.touch(mode=0o600)
        before_mount(window)
        descriptor = detached(image, directory, [_WINDOW.id], hold)
        try:
            yield _Ground(descriptor, window)
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def require_root() -> None:
    """Return if this process may mount.

    Raises:
        ErofsForbidden: it may not.
    """
    if os.geteuid() != 0:
        raise ErofsForbidden("mounts of the kernel need root; without it use the driver fuse")


def probe_image() -> bytes:
    """A localised image with one file, "f", which is its one window."""
    names, nids = [b".", b"..", b"f"], [_ROOT, _ROOT, _FILE]
    stream = pack_directory(names, nids, [TYPE_DIRECTORY, TYPE_DIRECTORY, TYPE_REGULAR])
    inodes = bytearray(BLOCK)

    def put(nid: int, inode: InodeExtended, behind: bytes) -> None:
        raw = INODE_EXTENDED.pack(inode) + behind
        inodes[32 * nid : 32 * nid + len(raw)] = raw

    folder = InodeExtended(
        i_format=LAYOUT_INLINE << 1 | 1, mode=stat.S_IFDIR | 0o555, size=len(stream), nlink=2, ino=1
    )
    put(_ROOT, folder, stream)
    file = InodeExtended(
        i_format=LAYOUT_CHUNKS << 1 | 1,
        mode=stat.S_IFREG | 0o444,
        size=BLOCK,
        i_u=CHUNK_FORMAT_INDEXES,
        ino=2,
    )
    put(_FILE, file, CHUNK_ENTRY.pack(ChunkEntry(device=1)))
    join, _ = pack_front(Superblock(root_nid=_ROOT, inode_count=2, meta_block=0), 0, 1, [_WINDOW])
    return join(bytes(inodes))


def _read(mount: int) -> bytes | None:
    """The file's bytes; None for an error of input or output."""
    descriptor = os.open("f", os.O_RDONLY | os.O_CLOEXEC, dir_fd=mount)
    try:
        return os.read(descriptor, 2 * BLOCK)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    finally:
        os.close(descriptor)
