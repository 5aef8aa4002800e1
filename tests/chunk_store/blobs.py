"""Builders for store tests: blobs with known bytes, and a remote that stalls, fails, lies or kills."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import pytest

from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.blob_writer import BlobWriter, pack_unit
from rafs.windows import Window, cut_windows

PIECE = 64 << 10


class Blob:
    """A blob: its tables, the object a registry would hold, and its uncompressed address space.

    Made when something of it is first asked for: each worker loads all tests, of which it runs a part, and
    what is in its memory makes every fork of it dearer.
    """

    def __init__(self, units: Callable[[], Sequence[Sequence[bytes]]]) -> None:
        self._units = units

    @cached_property
    def _parts(self) -> tuple[BlobMeta, bytes, bytes]:
        units = self._units()
        writer = BlobWriter(chunk_size=1 << 20)
        stored = [writer.add_unit(pack_unit(chunks, level=1)) for chunks in units]
        tail, finished = writer.finish()
        meta = parse_blob_meta(finished.record(0), finished.cache_form(), finished.digests)
        plain = b"".join(chunk + bytes(-len(chunk) % 4096) for chunks in units for chunk in chunks)
        return meta, b"".join(stored) + tail, plain

    @property
    def meta(self) -> BlobMeta:
        return self._parts[0]

    @property
    def stored(self) -> bytes:
        return self._parts[1]

    @property
    def plain(self) -> bytes:
        return self._parts[2]

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        return cut_windows(self.meta)

    @property
    def unit_bytes(self) -> int:
        """Compressed bytes of all units: what filling the store once must cost."""
        return self.windows[-1].compressed_end - self.windows[0].compressed_start


def chunk_of(seed: object, size: int) -> bytes:
    """*size* bytes that zstd makes somewhat smaller, different for each *seed*."""
    random = Random(repr(seed))
    return random.randbytes(-(-size // 2)).hex().encode()[:size]


def blob_of(units: Sequence[Sequence[bytes]]) -> Blob:
    """A blob whose units hold exactly these chunks."""
    return Blob(lambda: units)


def random_blob(seed: object, size: int, *, chunk: int = 100_000, per_unit: int = 4) -> Blob:
    """About *size* bytes in units of *per_unit* chunks."""

    def units() -> list[list[bytes]]:
        chunks = [chunk_of((seed, number), chunk) for number in range(max(1, size // chunk))]
        return [chunks[at : at + per_unit] for at in range(0, len(chunks), per_unit)]

    return Blob(units)


def wait_for(gate: threading.Event) -> None:
    """Wait until the test opens *gate*; fail if it never does."""
    assert gate.wait(30), "the test never opened the gate"


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether *holds* becomes true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def page_cache(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Has the page cache hold every file or none, as the first element says: tests also lie on file systems
    that do not tell (tmpfs). The real one is asked in tests/system.
    """
    cached, read = [True], os.preadv

    def preadv(descriptor: int, into: list[memoryview], offset: int, flags: int) -> int:
        if flags & os.RWF_NOWAIT and not cached[0]:
            raise BlockingIOError
        return read(descriptor, into, offset, flags & ~os.RWF_NOWAIT)

    monkeypatch.setattr("os.preadv", preadv)
    return cached


def unmount(place: Path) -> None:
    """Take a file system away that a store has lain on, whose threads may have a moment left to live."""
    command: list[str | Path] = ["umount", place]
    assert eventually(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0)


@dataclass(frozen=True)
class Asked:
    """One request the remote got."""

    blob_id: str
    offset: int
    size: int


class RemoteFailed(Exception):
    """What the scripted remote raises; `temporary` as the script says."""

    retry_after: float | None = None

    def __init__(self, text: str, *, temporary: bool) -> None:
        super().__init__(text)
        self.temporary = temporary


class ScriptedSource:
    """A remote in memory.

    `on_request` is called before a range is served, `on_piece` before each piece of it with (request, bytes
    served so far); either may block, raise, or kill the process.
    """

    def __init__(self, *blobs: Blob) -> None:
        self._stored = {blob.meta.id: blob.stored for blob in blobs}
        self._lock = threading.Lock()
        self.asked: list[Asked] = []
        self.distrusted: list[Asked] = []
        self.sent = 0
        self.on_request: Callable[[Asked], None] = lambda _: None
        self.on_piece: Callable[[Asked, int], None] = lambda _, __: None
        self.failures: deque[Exception] = deque()
        self.flips: dict[tuple[str, int], int] = {}
        self.piece = PIECE

    def flip(self, blob: Blob, offset: int, times: int) -> None:
        """Send byte *offset* wrong the first *times* it is asked for."""
        self.flips[blob.meta.id, offset] = times

    def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
        asked = Asked(blob_id, offset, size)
        with self._lock:
            self.asked.append(asked)
            failure = self.failures.popleft() if self.failures else None
        self.on_request(asked)
        if failure is not None:
            raise failure
        stored = bytearray(self._stored[blob_id][offset : offset + size])
        for (flipped, at), times in self.flips.items():
            if flipped == blob_id and offset <= at < offset + size and times:
                self.flips[flipped, at] -= 1
                stored[at - offset] ^= 0x55
        for at in range(0, len(stored), self.piece):
            self.on_piece(asked, at)
            piece = bytes(stored[at : at + self.piece])
            with self._lock:
                self.sent += len(piece)
            yield piece

    def distrust(self, blob_id: str, offset: int, size: int) -> None:
        self.distrusted.append(Asked(blob_id, offset, size))
