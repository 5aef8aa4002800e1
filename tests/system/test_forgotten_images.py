"""A kernel mount whose image has to be opened anew when its documents are gone, and its registry is away."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.kills.kernel_run import process_lives
from tests.system.kept_store import Reading, until
from tests.system.test_lazy_kernel_mount import FILES, LARGE, Place, assert_right, place

__all__ = ["place"]  # a fixture is found by its name here

pytestmark = pytest.mark.system

ABSENT = [f"f{number}" for number in range(1, 6)]


@contextmanager
def hung_up(place: Place) -> Iterator[list[float]]:
    """When somebody connected to the registry's address, where everybody is hung up on meanwhile."""
    name, _, port = place.registry.host.rpartition(":")
    place.registry.stop()
    attempts: list[float] = []
    with socket.create_server((name, int(port))) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    listening.accept()[0].close()
                    attempts.append(time.monotonic())

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield attempts
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            serving.join()
    place.registry.start()


def test_an_image_that_cannot_be_opened_is_asked_for_seldom_and_read_as_soon_as_it_can_be(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOPULL_READER_SECONDS", "5")
    where = place.mount(place.publish(LARGE))
    assert_right(where, b"f0")
    _, filler = place.pids()
    for documents in ("images", "tags"):
        shutil.rmtree(place.root / documents)
    with hung_up(place) as attempts:
        os.kill(filler, signal.SIGKILL)
        until(lambda: not process_lives(filler))
        began = time.monotonic()
        # The first window may have come with f0, the others lie behind it.
        readings = [Reading(where / name, at << 20, 100) for name in ABSENT for at in (1, 2)]
        assert {reading.result() for reading in readings} == {errno.EIO}
        assert time.monotonic() - began < 10
        before, began = len(attempts), time.monotonic()
        while time.monotonic() - began < 5:
            for reading in [Reading(where / name, 1 << 20, 100) for name in ABSENT]:
                assert reading.result() == errno.EIO
        # Two openings with what each tries again; not one for each of 50 reads.
        assert 0 < len(attempts) - before < 60
    back = time.monotonic()
    while (found := Reading(where / "f2", 1 << 20, 100).result()) == errno.EIO:
        assert time.monotonic() - back < 4
        time.sleep(0.2)
    assert found == FILES[b"f2"][1 << 20 :][:100]
    assert_right(where)


def test_readers_wait_for_an_image_that_is_opened_when_its_registry_is_back(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    _, filler = place.pids()
    shutil.rmtree(place.root / "images")
    with hung_up(place):
        os.kill(filler, signal.SIGKILL)
        readings = [Reading(where / name, 1 << 20, 100) for name in ABSENT]
        time.sleep(6)  # longer than one opening tries by itself
        assert all(reading.waits for reading in readings)
    for name, reading in zip(ABSENT, readings, strict=True):
        assert reading.result() == FILES[name.encode()][1 << 20 :][:100]
