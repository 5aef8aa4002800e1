"""Closing a source ends every wait of its readers within a second."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from registry_client import open_source
from registry_client.errors import RegistryError
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_source import RegistrySource
from tests.registry_client.cases import case
from tests.registry_client.sample import SampleImage, store
from tests.support.scripted_registry import Reply, ScriptedRegistry

READERS = 8


@pytest.fixture
def deaf() -> Iterator[str]:
    """A host that never accepts: its queue of waiting connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for one in waiting:
            one.close()


def end(source: RegistrySource, read: Callable[[int], object]) -> float:
    """Start readers, close *source* under them; how many seconds they took to end after that."""
    failures: list[BaseException] = []

    def one(number: int) -> None:
        try:
            read(number)
        except RegistryError as error:
            failures.append(error)

    with ThreadPoolExecutor(READERS) as threads:
        for number in range(READERS):
            threads.submit(one, number)
        time.sleep(0.3)
        started = time.monotonic()
        source.close()
    assert len(failures) == READERS
    return time.monotonic() - started


@pytest.mark.parametrize(
    "lie",
    [
        lambda request, reply: replace(reply, cut=10, stall=True),
        lambda request, reply: Reply(503, (("Retry-After", "30"),)),
        lambda request, reply: replace(reply, drip=0.2),
    ],
    ids=["stall", "pause", "drip"],
)
@case(40)
def test_blocked_readers_end_when_their_source_is_closed(
    server: ScriptedRegistry,
    image: SampleImage,
    lie: Callable[..., Reply],
) -> None:
    server.lie(lie, "GET /v2/.*/blobs/")
    source = open_source(parse_reference(store(image, server)), RegistryOptions(connections=3))
    assert isinstance(source, RegistrySource)
    assert end(source, lambda number: list(source.read_at(image.layers[0], number, 1000))) < 1.0


def test_readers_that_wait_for_a_connection_to_come_up_end_as_well(deaf: str, image: SampleImage) -> None:
    source = open_source(parse_reference(f"{deaf}/demo/py:v1"), RegistryOptions(connections=3))
    assert isinstance(source, RegistrySource)
    source.warm(1)
    assert end(source, lambda number: list(source.read_at(image.layers[0], number, 1000))) < 1.0
