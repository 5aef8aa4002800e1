"""Answers of a keeper arrive, however long they are."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
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


def has_memory_open() -> bool:
    """Whether a descriptor of this process is a file in memory as answers are put into."""
    found = False
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found |= "memfd:handover" in str(descriptor.readlink())
    return found
