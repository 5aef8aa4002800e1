"""Window files are opened so that no keeper is asked: through its door, found anew when there is another."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunk_store import doorway as doorways
from chunk_store.doorway import NUMBER, Doorway, next_number, prepare_number
from chunk_store.keeper_client import KEEPER, SOCKET, ask_keeper
from chunk_store.short_name import short_name
from chunk_store.window_file import WindowDirectory

NAME = "ab/" + "ab" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "windows" / "ab").mkdir(parents=True)
    (tmp_path / KEEPER).mkdir()
    prepare_number(tmp_path)
    return tmp_path


class Doorman:
    """Listens where a keeper does and hands out *door*, a directory of its own, unless it `is_silent`."""

    def __init__(self, root: Path, door: Path) -> None:
        self.asked: list[object] = []
        self.is_silent = False
        self._unanswered: list[socket.socket] = []
        self._door = os.open(door, os.O_PATH | os.O_DIRECTORY)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with short_name(root / KEEPER / SOCKET) as name:
            self._socket.bind(name)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self.is_silent:
                self._unanswered.append(connection)
                continue
            with connection:
                self.asked.append(json.loads(connection.recv(4096)))
                socket.send_fds(connection, [b"{}"], [self._door])

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for connection in self._unanswered:
            connection.close()
        os.close(self._door)


@contextmanager
def doorman(root: Path, name: str) -> Iterator[Doorman]:
    door = root / name
    (door / "ab").mkdir(parents=True)
    listening = Doorman(root, door)
    try:
        yield listening
    finally:
        listening.close()
        (root / KEEPER / SOCKET).unlink()


def make(doorway: Doorway) -> None:
    os.close(doorway.open(NAME, os.O_WRONLY | os.O_CREAT)[0])


def test_without_a_keeper_files_are_opened_by_their_path(root: Path) -> None:
    doorway = Doorway(root)
    descriptor, passage = doorway.open(NAME, os.O_WRONLY | os.O_CREAT)
    os.close(descriptor)
    assert passage == (0, True)
    assert (root / "windows" / NAME).exists()


def test_a_keepers_door_is_asked_for_once_and_used_from_then_on(root: Path) -> None:
    doorway = Doorway(root)
    make(doorway)
    with doorman(root, "first") as first:
        assert next_number(root) == 1
        make(doorway)
        make(doorway)
        assert first.asked == [{"ask": "door"}]
        assert (root / "first" / NAME).exists()
    with doorman(root, "second"):
        assert next_number(root) == 2
        make(doorway)
        assert (root / "second" / NAME).exists()
    doorway.close()


def test_the_doors_of_keepers_that_are_gone_are_let_go(root: Path) -> None:
    """Each pins a mount."""
    doorway = Doorway(root)
    counts = []
    for number in range(4):
        with doorman(root, f"door {number}"):
            next_number(root)
            make(doorway)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(set(counts)) == 1, counts
    doorway.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < counts[0]


def test_a_door_is_let_go_only_when_nobody_opens_through_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorway = Doorway(root)
    real_open = os.open
    with doorman(root, "first"):
        next_number(root)
        make(doorway)
    reached, go_on = threading.Event(), threading.Event()

    def open_slowly(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if threading.current_thread() is slow and dir_fd is not None and not reached.is_set():
            reached.set()
            go_on.wait(10)
        return real_open(name, flags, mode, dir_fd=dir_fd)

    found: list[os.stat_result] = []

    def open_one() -> None:
        descriptor, _ = doorway.open(NAME, os.O_WRONLY | os.O_CREAT)
        found.append(os.fstat(descriptor))
        os.close(descriptor)

    slow = threading.Thread(target=open_one)
    monkeypatch.setattr(os, "open", open_slowly)
    slow.start()
    assert reached.wait(10)
    with doorman(root, "second"):
        next_number(root)
        make(doorway)
        go_on.set()
        slow.join()
    assert [one.st_ino for one in found] == [(root / "second" / NAME).stat().st_ino]
    doorway.close()


def test_a_keeper_that_is_gone_has_left_nothing_to_go_around(root: Path) -> None:
    next_number(root)
    doorway = Doorway(root)
    make(doorway)
    assert (root / "windows" / NAME).exists()


def test_a_keeper_that_was_silent_is_asked_again_and_what_was_opened_meanwhile_is_opened_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorways, "ASK_SECONDS", 0.05)
    directory = WindowDirectory(root)
    with doorman(root, "first") as first:
        first.is_silent = True
        next_number(root)
        locked = directory.try_lock("ab" * 32, 4096)
        assert locked is not None
        locked.write(0, [b"x" * 100])  # by its path: there is no other way yet
        first.is_silent = False
        deadline = time.monotonic() + 10
        with pytest.raises(OSError, match="another keeper"):
            while time.monotonic() < deadline:
                locked.write(100, [b"x" * 100])
        locked.close()
        assert first.asked == [{"ask": "door"}]
        (root / "first" / NAME).write_bytes(b"through the door")
        descriptor = directory.open_read("ab" * 32, None)
        assert descriptor is not None
        assert os.read(descriptor, 100) == b"through the door"
        os.close(descriptor)
    directory.close()


def test_a_silent_keeper_is_not_asked_for_every_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def nobody_answers(_root: Path, _question: object, seconds: float) -> None:
        asked.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(doorways, "ask_within", nobody_answers)
    next_number(root)
    doorway = Doorway(root)
    for _ in range(20):
        make(doorway)
    assert len(asked) == 1
    time.sleep(0.06)
    make(doorway)
    assert len(asked) == 2 and asked[1] < asked[0]


def test_who_finds_no_place_among_those_who_ask_waits_for_one(root: Path) -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listening, first, short_name(root / KEEPER / SOCKET) as name:
        listening.bind(name)
        listening.listen(0)
        first.connect(name)
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.append(ask_keeper(root, {"ask": "status"})))
        asking.start()
        time.sleep(0.1)
        listening.accept()[0].close()
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(100) == b'{"ask": "status"}'
            connection.send(b"{}")
        asking.join()
        assert answers == [({}, [])]


def test_what_was_opened_while_the_keeper_changed_is_opened_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorway = Doorway(root)
    real_open = os.open
    with doorman(root, "first"):

        def open_late(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            descriptor = real_open(name, flags, mode, dir_fd=dir_fd)
            if str(name).endswith(NAME) and not (root / "first" / NAME).exists() and dir_fd is None:
                next_number(root)
            return descriptor

        monkeypatch.setattr(os, "open", open_late)
        descriptor, passage = doorway.open(NAME, os.O_WRONLY | os.O_CREAT)
        os.close(descriptor)
        monkeypatch.undo()
        assert passage == (1, True)
        assert (root / "first" / NAME).exists()
    doorway.close()


def test_a_window_that_was_opened_under_another_keeper_is_not_written(root: Path) -> None:
    directory = WindowDirectory(root)
    locked = directory.try_lock("ab" * 32, 4096)
    assert locked is not None
    locked.write(0, [b"x" * 100])
    next_number(root)
    with pytest.raises(OSError, match="another keeper"):
        locked.write(100, [b"x"])
    locked.close()


def test_a_store_that_was_never_opened_has_no_keeper(tmp_path: Path) -> None:
    (tmp_path / "windows" / "ab").mkdir(parents=True)
    doorway = Doorway(tmp_path)
    make(doorway)
    assert doorway.number == 0
    assert not (tmp_path / NUMBER).exists()
