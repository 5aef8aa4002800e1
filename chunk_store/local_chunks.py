"""Which chunks lie in which windows of the store, so that what is local under another name is not fetched.

Images that share files but not their neighbours have chunks in common and no windows. `ROOT/windows.chunks`
says what complete windows hold: a record is appended when a window was written, by whoever wrote it, and is
a hint, never a promise. What is copied is verified like what is fetched, so a record that is wrong, torn or
outdated costs a fetch. Nothing is synced here.

Serves `range_fetch`; one `LocalChunks` belongs to one attachment, and many threads may use it.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from array import array
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from chunk_store.doorway import FILE_MODE
from chunk_store.window_file import WindowDirectory
from chunk_store.window_index import WindowIndex
from rafs.blob_meta import BlobMeta, Chunk, Unit
from rafs.digests import digest_of
from rafs.windows import Window

NAME = "windows.chunks"
_MAGIC = b"\x89chunks\n"
_HEADER = struct.Struct("<8s32sI")  # magic, window id, number of chunks; their prefixes and places follow
_PREFIX = 8  # bytes of a digest: enough to find a chunk, and what is found is compared with all 32
_DIGEST_WORDS = 4
_MOST_CHUNKS = 1 << 16  # of one window of 4 MiB there are 1024; more is no record
_BLOCK = 4096

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """One record: what a window holds, as far as it is known."""

    window_id: bytes  # 32 bytes
    prefixes: array[int]  # the first 8 bytes of the chunks' digests
    blocks: array[int]  # where they begin in the window, in blocks of 4096 bytes

    def packed(self) -> bytes:
        """The record as it lies in the file."""
        head = _HEADER.pack(_MAGIC, self.window_id, len(self.prefixes))
        return head + self.prefixes.tobytes() + self.blocks.tobytes()


def held_by(blob: BlobMeta, window: Window) -> Held:
    """What *window* of *blob* holds once it is complete."""
    first, end = window.first_chunk, window.first_chunk + window.chunk_count
    start = window.start // _BLOCK
    return Held(
        bytes.fromhex(window.id),
        _prefixes(blob, first, end),
        array("I", (block - start for block in blob.blocks[first:end])),
    )


def parse_records(content: bytes) -> Iterator[tuple[Held, int]]:
    """Yield each whole record of *content* and where it ends; what is no record is passed over."""
    at = content.find(_MAGIC)
    while 0 <= at <= len(content) - _HEADER.size:
        _, window_id, count = _HEADER.unpack_from(content, at)
        prefixes_at = at + _HEADER.size
        blocks_at = prefixes_at + 8 * count
        end = blocks_at + 4 * count
        if count > _MOST_CHUNKS or end > len(content):
            # No record, torn, or being written: what stands behind it starts with a magic of its own.
            at = content.find(_MAGIC, at + 1)
            continue
        prefixes, blocks = array("Q", content[prefixes_at:blocks_at]), array("I", content[blocks_at:end])
        yield Held(window_id, prefixes, blocks), end
        at = content.find(_MAGIC, end)


def keep_only(root: Path, window_ids: Container[str]) -> None:
    """Drop the records of all windows but these, and of those all but the latest. What others append at the
    same moment may be lost, which costs a fetch.

    Raises:
        OSError: the file cannot be written.
    """
    path = root / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    kept = {
        held.window_id: held for held, _ in parse_records(content) if held.window_id.hex() in window_ids
    }
    packed = b"".join(held.packed() for held in kept.values())
    if len(packed) == len(content):
        return
    scratch = root / f"{NAME}.new"
    scratch.touch(FILE_MODE)
    scratch.write_bytes(packed)
    scratch.replace(path)


class LocalChunks:
    """The chunks of one attachment that lie in windows of other images."""

    def __init__(self, root: Path, index: WindowIndex, directory: WindowDirectory) -> None:
        self._path = root / NAME
        self._index = index
        self._directory = directory
        # Protects everything below, and is held while the file is read. A leaf.
        self._lock = threading.Lock()
        self._inode = 0
        self._read = 0  # bytes of the file that were looked through
        self._own: frozenset[bytes] | None = None
        self._places: dict[int, tuple[str, int]] = {}  # by prefix: (window id, block)

    def __bool__(self) -> bool:
        return bool(self._places)

    def note(self, number: int) -> None:
        """Window *number* was completed: tell everybody what it holds."""
        record = held_by(self._index.blob(number), self._index[number]).packed()
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
            try:
                os.write(fd, record)
            finally:
                os.close(fd)
        except OSError as error:
            log.debug("not noted what window %d holds: %s", number, error)

    def refresh(self) -> None:
        """Look at what was noted since the last time, by any process."""
        with self._lock:
            # Each call into the kernel lets other threads have the interpreter: one, where nothing is new.
            try:
                now = self._path.stat()
                if (now.st_ino, now.st_size) == (self._inode, self._read):
                    return
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return
            try:
                found = os.fstat(fd)
                if found.st_ino != self._inode or found.st_size < self._read:
                    self._inode, self._read = found.st_ino, 0
                if found.st_size > self._read:
                    self._look_through(os.pread(fd, found.st_size - self._read, self._read))
            except OSError as error:
                log.debug("not known what other windows hold: %s", error)
            finally:
                os.close(fd)

    def has(self, blob: BlobMeta, unit: Unit) -> bool:
        """Whether every chunk of *unit* is thought to be local."""
        places = self._places
        end = unit.first_chunk + unit.chunk_count
        return bool(places) and all(prefix in places for prefix in _prefixes(blob, unit.first_chunk, end))

    def copy(self, blob: BlobMeta, unit: Unit) -> list[tuple[Chunk, bytes]] | None:
        """The chunks of *unit*, read from other windows and verified; None if one of them is not there after
        all, which is then remembered.
        """
        copied: list[tuple[Chunk, bytes]] = []
        digest = digest_of(blob.digester)
        fd, opened = -1, ""
        try:
            for number in range(unit.first_chunk, unit.first_chunk + unit.chunk_count):
                chunk = blob.chunk(number)
                prefix = _prefixes(blob, number, number + 1)[0]
                place = self._places.get(prefix)
                if place is None:
                    return None
                if place[0] != opened:
                    if fd >= 0:
                        os.close(fd)
                    opened = place[0]
                    found = self._directory.open_read(opened, None)
                    fd = -1 if found is None else found
                content = os.pread(fd, chunk.size, place[1] * _BLOCK) if fd >= 0 else b""
                if digest(content) != chunk.digest:
                    self._forget(prefix)
                    return None
                copied.append((chunk, content))
        except OSError as error:
            log.debug("not copied from a local window: %s", error)
            self._forget(prefix)
            return None
        finally:
            if fd >= 0:
                os.close(fd)
        return copied

    def clear(self) -> None:
        """Nothing is missing any more: give the memory back."""
        with self._lock:
            self._places = {}
            self._read = 0

    def _forget(self, prefix: int) -> None:
        with self._lock:
            self._places.pop(prefix, None)

    def _look_through(self, content: bytes) -> None:
        if self._own is None:
            self._own = frozenset(bytes.fromhex(self._index[number].id) for number in self._index.distinct())
        wanted: set[int] | None = None
        done = 0
        for held, end in parse_records(content):
            done = end
            if held.window_id in self._own:
                continue
            if wanted is None:
                wanted = set().union(*(_prefixes(blob, 0, blob.chunk_count) for blob in self._index.blobs))
            if wanted.isdisjoint(held.prefixes):
                continue
            window_id = held.window_id.hex()
            for prefix, block in zip(held.prefixes, held.blocks, strict=True):
                if prefix in wanted:
                    self._places[prefix] = (window_id, block)
        # What is torn at the end may be whole the next time.
        self._read += done


def _prefixes(blob: BlobMeta, first: int, end: int) -> array[int]:
    size = _PREFIX * _DIGEST_WORDS
    return array("Q", blob.digests[first * size : end * size])[::_DIGEST_WORDS]

