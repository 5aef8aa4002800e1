"""What tests of the gate get."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from erofs_fs import fanotify, gate
from erofs_fs.journal import new_journal
from erofs_fs.watched import WatchedWindows
from rafs.window_slots import WindowDevice
from tests.erofs_fs.gate_bench import LENGTH, Bench, name_of
from tests.support.clock import Clock


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    clock = Clock()
    monkeypatch.setattr(gate, "time", clock)
    monkeypatch.setattr(gate, "lock_owners", lambda *_: {})
    monkeypatch.setattr(gate, "is_thread_of", lambda process, thread: thread in (process, process + 1000))
    # Marks need root; who is marked is `WatchedWindows`' business.
    monkeypatch.setattr(fanotify, "watch", lambda *_: None)
    monkeypatch.setattr(fanotify, "unwatch", lambda *_: None)
    for number in range(3):
        path = tmp_path / name_of(number)[:2] / name_of(number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    door = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    kernel, group = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    group.setblocking(False)
    windows = WatchedWindows(group.fileno(), door)
    windows.take(WindowDevice(name_of(number), LENGTH) for number in range(3))
    memory = new_journal(200)
    made = Bench(windows, kernel, group, memory, tmp_path, clock)
    yield made
    for window in windows:
        made.gate.refuse(window)  # closes what still waits
    for descriptor in (door, memory):
        os.close(descriptor)
    kernel.close()
    group.close()
