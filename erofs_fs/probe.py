"""Does this machine's EROFS behave as our mounts rely on? Asked of the kernel, not of its version.

A tiny image with one empty window is mounted, nowhere: a read must be an error, not zeros, and right as soon
as the window is there. Kernels before 6.18.44 show zeros for what is absent; such a mount would lie.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

from erofs_fs.errors import ErofsForbidden, ErofsMissing
from erofs_fs.mount import detached
from rafs.codes import BLOCK, CHUNK_FORMAT_INDEXES, LAYOUT_CHUNKS, LAYOUT_INLINE, TYPE_DIRECTORY, TYPE_REGULAR
from rafs.directory_writer import pack_directory
from rafs.localised import WindowDevice, pack_front
from rafs.records import CHUNK_ENTRY, INODE_EXTENDED, ChunkEntry, InodeExtended, Superblock
from rafs.windows import WindowId

_WINDOW = WindowDevice(WindowId("0" * 64), BLOCK)
_CONTENT = bytes(range(256)) * (BLOCK // 256)
_ROOT, _FILE = 2, 8  # nids


def probe(root: Path) -> None:
    """Return if images can be mounted from the state root *root*, which must exist and be writable.

    Takes some milliseconds.

    Raises:
        ErofsMissing: this kernel or the file system of *root* cannot do it, or would show zeros.
        ErofsForbidden: not root.
        OSError: *root* cannot be written.
    """
    require_root()
    directory = Path(tempfile.mkdtemp(prefix=".probe-", dir=root))
    try:
        image, window = directory / "image", directory / _WINDOW.id[:2] / _WINDOW.id
        image.write_bytes(probe_image())
        window.parent.mkdir()
        window.touch(mode=0o600)
        with detached(image, directory, [_WINDOW]) as mount:
            if _read(mount) is not None:
                raise ErofsMissing(
                    "this kernel shows zeros for what is absent (before 6.18.44 or 7.0); use the driver fuse"
                )
            window.write_bytes(_CONTENT)
            if _read(mount) != _CONTENT:
                raise ErofsMissing(
                    "this kernel does not see what is written to a window below a mount; use the driver fuse"
                )
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
