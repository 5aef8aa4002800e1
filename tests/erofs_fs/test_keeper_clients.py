"""Answers of a keeper arrive, however long they are, and no question is the end of it."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from chunk_store.keeper_client import KEEPER, SOCKET, ask_keeper
from erofs_fs.keeper_clients import Clients, reply


@pytest.mark.parametrize("mounts", [1, 3000, 20_000])
def test_an_answer_that_is_longer_than_a_message_arrives_with_its_descriptors(
    tmp_path: Path, mounts: int
) -> None:
    answer = {"mounts": {f"mount {number:06}": number for number in range(mounts)}}
    (tmp_path / KEEPER).mkdir()
    with select.epoll() as poll, Path(os.devnull).open("rb") as given:
        clients = Clients(tmp_path / KEEPER / SOCKET, poll)
        found: list[object] = []

        def ask() -> None:
            answered = ask_keeper(tmp_path, {"ask": "status"})
            assert answered is not None
            found.append(answered[0])
            found.append([os.path.samestat(os.fstat(one), os.fstat(given.fileno())) for one in answered[1]])
            for descriptor in answered[1]:
                os.close(descriptor)

        asking = threading.Thread(target=ask)
        asking.start()
        while not found and asking.is_alive():
            for descriptor, _ in poll.poll(0.1):
                if descriptor == clients.descriptor:
                    clients.accept()
                    continue
                connection, question = clients.hear(descriptor)
                assert question == {"ask": "status"}
                with connection:
                    reply(connection, answer, [given.fileno()])
        asking.join()
        clients._listener.close()
        os.close(clients.removals)
        assert found == [answer, [True]]
        assert not has_memory_open()


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    with select.epoll() as poll:
        made = Clients(tmp_path / "socket", poll)
        yield made
        made._listener.close()
        os.close(made.removals)


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


@pytest.mark.parametrize("words", [b"[" * 60_000, b'{"ask":' * 9000, b"\xff", b"1" * 60_000, b"{"])
def test_what_cannot_be_read_is_no_question(clients: Clients, tmp_path: Path, words: bytes) -> None:
    with connected(tmp_path / "socket") as asking:
        clients.accept()
        asking.send(words)
        (descriptor,) = clients._waiting
        connection, question = clients.hear(descriptor)
        connection.close()
        assert question is None


def test_who_is_silent_makes_room_for_who_comes(clients: Clients, tmp_path: Path) -> None:
    with ExitStack() as closing:
        silent = [closing.enter_context(connected(tmp_path / "socket")) for _ in range(60)]
        for _ in silent:
            clients.accept()
        assert len(clients._waiting) == 32
        assert silent[0].recv(1) == b""  # its end
        silent[-1].send(b"{}")
        heard = [clients.hear(descriptor) for descriptor in list(clients._waiting)]
        assert [question for _, question in heard] == [None] * 31 + [{}]
        for connection, _ in heard:
            connection.close()


def test_without_a_descriptor_the_oldest_silent_one_is_dropped(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def accept(self) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    listener = clients._listener
    with connected(tmp_path / "socket") as first, connected(tmp_path / "socket"):
        clients.accept()
        monkeypatch.setattr(clients, "_listener", Full())
        clients.accept()
        assert first.recv(1) == b""
        monkeypatch.setattr(clients, "_listener", listener)
        clients.accept()
        (descriptor,) = clients._waiting
        clients._waiting.pop(descriptor).close()


def test_who_cannot_be_accepted_is_not_tried_again_and_again(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def accept(self) -> None:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

        def fileno(self) -> int:
            return listener.fileno()

    listener = clients._listener
    with connected(tmp_path / "socket") as asking:
        assert clients._poll.poll(5)
        assert clients.due() is None
        monkeypatch.setattr(clients, "_listener", Full())
        clients.accept()
        monkeypatch.setattr(clients, "_listener", listener)
        due = clients.due()
        assert due is not None
        clients.overdue(due - 0.001)
        assert not clients._poll.poll(0)
        clients.overdue(due)
        assert clients._poll.poll(5) and clients.due() is None
        clients.accept()
        asking.send(b"{}")
        (descriptor,) = clients._waiting
        connection, question = clients.hear(descriptor)
        connection.close()
        assert question == {}


def has_memory_open() -> bool:
    """Whether a descriptor of this process is a file in memory as answers are put into."""
    found = False
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found |= "memfd:handover" in str(descriptor.readlink())
    return found
