"""The durable record: which windows are known to have reached the disk, and what they hold.

`ROOT/windows.sums`, one line per window, later lines win:

    <window id: 64 hex> <xxh3-64 of the file: 16 hex> <length: bytes, decimal> <mtime: ns, decimal>

A line is written only after the window's bytes were synced, and synced itself. The mtime tells cheaply that a
file is still the one that was recorded; where it differs, the checksum decides. The record is read after an
unclean boot and by verification only: while the machine is up, a window's length is the truth.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chunk_store.doorway import FILE_MODE

NAME = "windows.sums"
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Sum:
    """One window that is on the disk: id, XXH3-64 of its file, length in bytes, mtime in ns."""

    window_id: str
    checksum: int
    length: int
    mtime_ns: int

    def line(self) -> str:
        return f"{self.window_id} {self.checksum:016x} {self.length} {self.mtime_ns}\n"


def is_window_id(name: str) -> bool:
    """Whether *name* has the form of a window's id."""
    return len(name) == 64 and _HEX.issuperset(name)


def parse_line(line: str) -> Sum | None:
    """The record in *line*, or None if it is not one: a torn append is expected, not an error."""
    fields = line.split(" ")
    if len(fields) != 4 or not line.endswith("\n"):
        return None
    window_id, checksum, length, mtime = fields
    if not is_window_id(window_id) or len(checksum) != 16 or not _HEX.issuperset(checksum):
        return None
    try:
        return Sum(window_id, int(checksum, 16), int(length), int(mtime))
    except ValueError:
        return None


def load(root: Path) -> dict[str, Sum]:
    """Every window recorded under *root*, by id; empty where there is no record."""
    try:
        with (root / NAME).open(encoding="ascii", errors="replace") as lines:
            parsed = (parse_line(line) for line in lines)
            return {found.window_id: found for found in parsed if found is not None}
    except FileNotFoundError:
        return {}


def append(root: Path, sums: Iterable[Sum]) -> None:
    """Add *sums* to the record and sync it. Safe against other processes that do the same.

    Raises:
        OSError: the record could not be written; windows it should name count as not recorded.
    """
    text = "".join(found.line() for found in sums)
    if not text:
        return
    with _locked(root) as fd:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            text = "\n" + text  # a kill in the middle of an append must not swallow our first line
        _write_all(fd, text.encode("ascii"))
        os.fsync(fd)


def replace(root: Path, sums: Iterable[Sum]) -> None:
    """Make *sums* the whole record. Only under the exclusive store lock: an append may not run beside it."""
    scratch = root / f"{NAME}.new"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        _write_all(fd, "".join(found.line() for found in sums).encode("ascii"))
        os.fsync(fd)
    finally:
        os.close(fd)
    scratch.replace(root / NAME)
    sync_directory(root)


def sync_directory(path: Path) -> None:
    """Make the names in *path* durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _locked(root: Path) -> Iterator[int]:
    fd = os.open(root / NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]
