"""Window files are opened so that no keeper is asked: through its door, found anew when there is another."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunk_store.doorway import NUMBER, Doorway, next_number, prepare_number
from chunk_store.keeper_client import KEEPER, SOCKET
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
    """Listens where a keeper does and hands out *door*, a directory of its own."""

    def __init__(self, root: Path, door: Path) -> None:
        self.asked: list[object] = []
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
            with connection:
                self.asked.append(json.loads(connection.recv(4096)))
                socket.send_fds(connection, [b"{}"], [self._door])

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
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
    descriptor, number = doorway.open(NAME, os.O_WRONLY | os.O_CREAT)
    os.close(descriptor)
    assert number == 0
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


def test_a_keeper_that_is_gone_has_left_nothing_to_go_around(root: Path) -> None:
    next_number(root)
    doorway = Doorway(root)
    make(doorway)
    assert (root / "windows" / NAME).exists()


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
        descriptor, number = doorway.open(NAME, os.O_WRONLY | os.O_CREAT)
        os.close(descriptor)
        monkeypatch.undo()
        assert number == 1
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
