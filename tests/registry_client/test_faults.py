"""Networks that fail: told apart, sat out within the deadline, and nothing beside them held up."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from registry_client.errors import ResponseInvalid, Unreachable
from registry_client.registries.registry_source import RegistrySource
from registry_client.transport.deadline import Deadline
from registry_client.transport.retrying import Attempts, parse_retry_after
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, read
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

BLOBS = "GET /v2/.*/blobs/"
Opener = Callable[..., RegistrySource]


class Resetting:
    """A host that resets whatever connects."""

    def __init__(self) -> None:
        self.met = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.met += 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def resetting() -> Iterator[Resetting]:
    host = Resetting()
    yield host
    host.stop()


@case(33)
def test_a_name_nobody_knows_is_said_to_be_one_and_asked_for_again(
    opened: Opener, image: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def unknown(*arguments: object, **options: object) -> None:
        asked.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        Unreachable, match=r"cannot reach registry nowhere.example to .*its name cannot be resolved; is the"
    ) as caught:
        read(opened("nowhere.example", timeout=1.0), image)
    assert caught.value.temporary
    assert len(asked) > 1


@case(33)
def test_a_host_that_resets_what_connects_is_tried_until_the_deadline(
    opened: Opener, image: SampleImage, resetting: Resetting
) -> None:
    with pytest.raises(Unreachable, match=f"{resetting.host} to read bytes 10-5009 .*reset by peer"):
        read(opened(resetting.host, timeout=1.0), image)
    assert resetting.met > 2


@case(33)
def test_who_tries_again_himself_learns_at_once_why_nothing_comes(
    opened: Opener, image: SampleImage, resetting: Resetting
) -> None:
    with pytest.raises(Unreachable, match=f"{resetting.host} to read bytes 10-5009 .*reset by peer"):
        list(opened(resetting.host).read_once(image.layers[0], 10, 5000))
    assert resetting.met == 1


def test_an_answer_that_breaks_off_is_gone_on_with_also_for_who_tries_again_himself(
    server: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    server.lie(lambda request, reply: replace(reply, cut=2000), BLOBS, times=1)
    layer = image.layers[0]
    assert b"".join(opened().read_once(layer, 10, 5000)) == image.contents[layer.digest][10:5010]
    assert [one.headers["range"] for one in server.seen(BLOBS)] == ["bytes=10-5009", "bytes=2010-5009"]


@case(34)
def test_a_kept_connection_that_fell_silent_costs_one_wait_once(
    server: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    """As behind a firewall that forgot it: what is sent there is never answered, and nothing says so."""
    source = opened(stall_timeout=0.3)
    read(source, image)
    over = threading.Event()

    def swallow(request: Request, reply: Reply) -> Reply:
        over.wait(20)
        return Reply(silent=True)

    server.lie(swallow, BLOBS, times=1)
    for offset in range(5):
        read(source, image, offset)
    over.set()
    assert len(server.seen(BLOBS)) == 1 + 1 + 5
    assert server.connections == 2


@case(35)
@pytest.mark.parametrize("how", ["no head", "no body", "drip"])
def test_a_reader_that_hangs_holds_up_nobody_else_and_frees_its_connection(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, how: str
) -> None:
    source = opened(timeout=1.0, connections=2)
    over = threading.Event()
    layer = image.layers[0]

    def hang(request: Request, reply: Reply) -> Reply:
        if not request.headers["range"].startswith("bytes=77-"):
            return reply
        if how == "no head":
            over.wait(20)
        return replace(reply, drip=0.02) if how == "drip" else replace(reply, cut=0, stall=True)

    server.lie(hang, BLOBS)
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(lambda: list(source.read_at(layer, 77, 100_000)))
        for offset in range(20):
            read(source, image, offset)
        with pytest.raises(Unreachable, match=r"1 s passed|nothing arrived"):
            hanging.result(10)
    over.set()
    together = threading.Barrier(2)

    def both(request: Request, reply: Reply) -> Reply:
        together.wait(5)
        return reply

    server.honest()
    server.lie(both, BLOBS, times=2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda offset: read(source, image, offset), (1, 2)))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, instead of sleeping it."""
    slept: list[float] = []

    def pause(deadline: Deadline, seconds: float) -> bool:
        slept.append(seconds)
        return True

    monkeypatch.setattr(Deadline, "pause", pause)
    return slept


def in_seconds(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@case(36)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("wish", "least", "most"),
    [
        ("2", 2, 2.2),
        ("in 3 s", 1, 3.2),
        ("an hour ago", 0, 0.2),
        ("soon", 0, 0.2),
        ("-5", 0, 0.2),
        ("", 0, 0.2),
    ],
)
def test_a_wish_to_be_left_alone_is_heard_by_all_requests_to_the_host(
    server: ScriptedRegistry,
    opened: Opener,
    image: SampleImage,
    pauses: list[float],
    status: int,
    wish: str,
    least: float,
    most: float,
) -> None:
    spoken = {"in 3 s": in_seconds(3), "an hour ago": in_seconds(-3600)}.get(wish, wish)
    headers = (("Retry-After", spoken),) if spoken else ()
    server.lie(lambda request, reply: Reply(status, headers), BLOBS, times=1)
    source = opened()
    read(source, image)
    assert pauses and all(least <= one <= most for one in pauses)
    if least:
        count = len(pauses)
        read(source, image)
        assert len(pauses) > count, "the next one waits, too"


@case(36)
def test_a_wish_for_a_day_is_an_error_at_once_and_says_how_long(
    server: ScriptedRegistry, opened: Opener, image: SampleImage, pauses: list[float]
) -> None:
    server.lie(lambda request, reply: Reply(429, (("Retry-After", "86400"),)), BLOBS)
    with pytest.raises(Unreachable, match="wait 3600 s"):
        read(opened(), image)
    assert not pauses
    assert len(server.seen(BLOBS)) == 1


@case(36, on=Server.NONE)
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("120", 120), (" 7 ", 7), ("9" * 40, 3600), ("1.5", None), ("١", None), ("never", None)],
)
def test_a_wait_is_a_number_or_a_date_and_never_beyond_an_hour(text: str, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_a_deadline_that_passes_hides_no_reason(
    server: ScriptedRegistry, opened: Opener, image: SampleImage
) -> None:
    """The last attempt has no time left and can say nothing else; the one before it knew more."""
    server.lie(lambda request, reply: Reply(502), BLOBS, times=1)
    server.lie(lambda request, reply: replace(reply, cut=0, stall=True), BLOBS)
    with pytest.raises(Unreachable, match="502"):
        read(opened(timeout=0.5, stall_timeout=5.0), image)
    assert len(server.seen(BLOBS)) == 2


def test_only_what_is_temporary_is_tried_again_and_pauses_are_random(pauses: list[float]) -> None:
    for error in (Unreachable("no", temporary=False), ResponseInvalid("no")):
        with pytest.raises(type(error)):
            Attempts(Deadline(100)).pause_or_raise(error)
    assert not pauses
    series = []
    for _ in range(20):
        attempts = Attempts(Deadline(100))
        for _ in range(12):
            attempts.pause_or_raise(Unreachable("busy"))
        series.append(tuple(pauses))
        pauses.clear()
    assert len(set(series)) == 20
    assert all(max(one) <= 5 for one in series)
    past = Deadline(0.001)
    time.sleep(0.002)
    with pytest.raises(Unreachable):
        Attempts(past).pause_or_raise(Unreachable("busy"))
