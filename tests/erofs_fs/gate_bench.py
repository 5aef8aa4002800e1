"""A gate to try: the group of events is a socket, whose other end is the kernel's part; the rest is real."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

from erofs_fs.gate import Gate
from erofs_fs.journal import Journal, Waiting
from erofs_fs.watched import Watched, WatchedWindows
from rafs.windows import WindowId
from tests.support.clock import Clock

LENGTH = 64 << 10
PAGE = 4096
OURS = 4242  # a thread that may not be made to wait
OVERFLOW = 0x4000
YES, NO = 1, 2 | errno.EIO << 24


def packed_event(number: int, thread: int, offset: int, size: int, mask: int = 0x0010_0000) -> bytes:
    """As the kernel writes it: linux/fanotify.h."""
    record = struct.pack("<BBHIQQ", 6, 0, 24, 0, offset, size)
    return struct.pack("<IBBHQii", 24 + len(record), 3, 0, 24, mask, number, thread) + record


@dataclass
class Bench:
    """A gate and all that is around it."""

    windows: WatchedWindows
    kernel: socket.socket
    group: socket.socket
    memory: int
    directory: Path
    clock: Clock
    most: int = 40
    needed: list[tuple[str, int]] = field(default_factory=list)
    noted: list[list[Waiting]] = field(default_factory=list)  # in the journal whenever something was needed
    late: list[tuple[str, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.memory)
        self.gate = self.another()

    def another(self) -> Gate:
        """A successor over the same group, journal and windows."""
        return Gate(
            self.group.fileno(), self.journal, self.windows, most=self.most,
            ours=lambda thread: thread == OURS, need=self.need,
            late=lambda window, end: self.late.append((window.id, end)),
            say=self.said.append, reader_seconds=20.0,
        )  # fmt: skip

    def need(self, window: Watched, end: int) -> None:
        self.needed.append((window.id, end))
        self.noted.append(list(self.journal.waiting()))

    def file(self, number: int) -> Path:
        return self.directory / name_of(number)[:2] / name_of(number)

    def access(self, path: Path, offset: int, size: int, thread: int = 7) -> int:
        """Somebody accesses *path*; the number of the event, which the gate has not read yet."""
        opened = os.open(path, os.O_RDONLY)
        self.kernel.send(packed_event(opened, thread, offset, size))
        return opened

    def wait(self, seconds: float) -> None:
        """Time goes by, and the keeper looks who has waited for too long."""
        self.clock.now += seconds
        self.gate.overdue(self.clock.now)

    def take(self, window: int, offset: int, size: int, thread: int = 7) -> int:
        number = self.access(self.file(window), offset, size, thread)
        self.gate.read()
        return number

    def answers(self) -> list[tuple[int, int]]:
        """(number, response) of those given since."""
        found = []
        while True:
            try:
                found.append(struct.unpack("<iI", self.kernel.recv(64, socket.MSG_DONTWAIT)))
            except BlockingIOError:
                return found


def name_of(number: int) -> WindowId:
    return WindowId(f"{number:064x}")


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
