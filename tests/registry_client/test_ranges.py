"""A registry that lies about ranges never gets a wrong byte past the reader, and never makes it hang."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from registry_client import open_source
from registry_client.errors import DigestMismatch, ResponseInvalid, Unreachable
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_source import RegistrySource
from tests.registry_client.cases import case
from tests.registry_client.sample import SampleImage, noise, sample_image, store
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

BLOBS = "GET /v2/.*/blobs/"


def read(source: RegistrySource, image: SampleImage, offset: int = 1000, size: int = 300_000) -> None:
    """Read a range and compare."""
    layer = image.layers[0]
    found = b"".join(source.read_at(layer, offset, size))
    assert found == image.contents[layer.digest][offset : offset + size]


def content_range(value: str) -> Callable[[Request, Reply], Reply]:
    return lambda request, reply: reply.having(Content_Range=value)


def without(name: str) -> Callable[[Request, Reply], Reply]:
    return lambda request, reply: replace(
        reply, headers=tuple(pair for pair in reply.headers if pair[0] != name)
    )


LIES: dict[str, Callable[[Request, Reply], Reply]] = {
    "start": content_range("bytes 999-300998/700001"),
    "end beyond": content_range("bytes 1000-301000/700001"),
    "unknown total": content_range("bytes 1000-300999/*"),
    "other unit": content_range("lines 1000-300999/700001"),
    "reversed": content_range("bytes 300999-1000/700001"),
    "no Content-Range": without("Content-Range"),
    "multipart": lambda request, reply: replace(
        reply, headers=(("Content-Type", "multipart/byteranges; boundary=x"),)
    ),
    "short length": lambda request, reply: replace(reply, body=reply.body[:-1]),
    "long length": lambda request, reply: replace(reply, body=reply.body + b"x"),
    "gzip": lambda request, reply: reply.having(Content_Encoding="gzip"),
    "cut": lambda request, reply: replace(reply, cut=1234),
    "reset": lambda request, reply: replace(reply, cut=1234, reset=True),
    "stall": lambda request, reply: replace(reply, cut=1234, stall=True),
    "stall before the body": lambda request, reply: replace(reply, cut=0, stall=True),
    "closed without an answer": lambda request, reply: Reply(silent=True),
    "500": lambda request, reply: Reply(500),
    "502 in HTML": lambda request, reply: Reply(502, body=b"<html>Bad gateway</html>"),
    "503": lambda request, reply: Reply(503),
    "429 with a wait of nothing": lambda request, reply: Reply(429, (("Retry-After", "0"),)),
    "416 with a false length": lambda request, reply: Reply(
        416, (("Content-Length", "700001"),), b"33 bytes of something else", cut=20, stall=True
    ),
}


@pytest.mark.parametrize("name", [name for name in LIES if not name.startswith("416")])
@case(28, 29, 31)
def test_a_lie_told_once_costs_an_attempt_and_no_wrong_byte(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions, name: str
) -> None:
    if "stall" in name:
        options = replace(options, stall_timeout=0.3)
    source = open_source(parse_reference(store(image, server)), options)
    assert isinstance(source, RegistrySource)
    server.lie(LIES[name], BLOBS, times=1)
    read(source, image)
    source.close()
    assert len(server.seen(BLOBS)) == 2


@pytest.mark.parametrize(
    "name", ["start", "end beyond", "unknown total", "no Content-Range", "long length", "gzip", "multipart"]
)
@case(28, 31)
def test_a_lie_told_for_ever_is_a_clear_error_after_few_attempts(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage, name: str
) -> None:
    server.lie(LIES[name], BLOBS)
    with pytest.raises(
        ResponseInvalid, match=r"read bytes 1000-300999 of 700001 of blob sha256:.* and answered"
    ):
        read(source, image)
    assert len(server.seen(BLOBS)) == 4


@case(28)
def test_another_total_size_is_an_error_at_once(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(content_range("bytes 1000-300999/700002"), BLOBS)
    with pytest.raises(DigestMismatch, match=r"700002 bytes at registry .* instead of the 700001"):
        read(source, image)
    assert len(server.seen(BLOBS)) == 1


@case(30)
def test_the_body_of_a_416_is_not_waited_for(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(LIES["416 with a false length"], BLOBS)
    with pytest.raises(ResponseInvalid, match="416"):
        read(source, image)


@case(29)
def test_reading_goes_on_at_the_first_missing_byte(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(lambda request, reply: replace(reply, cut=100_000), BLOBS, times=2)
    read(source, image)
    assert [request.headers["range"] for request in server.seen(BLOBS)] == [
        "bytes=1000-300999",
        "bytes=101000-300999",
        "bytes=201000-300999",
    ]
    assert source.bytes_received == 300_000


@case(29)
def test_a_part_shorter_than_asked_is_continued(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    def shorten(request: Request, reply: Reply) -> Reply:
        return replace(reply, body=reply.body[:50]).having(Content_Range="bytes 1000-1049/700001")

    server.lie(shorten, BLOBS, times=1)
    read(source, image)
    assert [request.headers["range"] for request in server.seen(BLOBS)] == [
        "bytes=1000-300999",
        "bytes=1050-300999",
    ]
    assert server.connections == 1


@case(29)
def test_chunked_parts_are_read_and_extra_bytes_never_returned(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(lambda request, reply: replace(reply, chunked=True), BLOBS, times=1)
    server.lie(
        lambda request, reply: replace(reply, chunked=True, body=reply.body + b"extra"), BLOBS, times=1
    )
    for _ in range(3):
        read(source, image)
    assert len(server.seen(BLOBS)) == 3
    assert server.connections == 2, "the connection with extra bytes on it must not be used again"


@case(26)
def test_the_whole_blob_for_a_range_is_skipped_through_near_its_start(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    whole = image.contents[image.layers[0].digest]
    server.lie(lambda request, reply: Reply(200, body=whole), BLOBS, times=1)
    read(source, image)
    read(source, image)
    assert [request.headers["range"] for request in server.seen(BLOBS)] == ["bytes=1000-300999"] * 2


@case(26)
def test_the_whole_blob_for_a_range_far_into_it_is_refused_but_not_for_ever(
    server: ScriptedRegistry, options: RegistryOptions
) -> None:
    image = sample_image(noise(1_300_000, 9))
    source = open_source(parse_reference(store(image, server)), options)
    assert isinstance(source, RegistrySource)
    whole = image.contents[image.layers[0].digest]
    server.lie(lambda request, reply: Reply(200, body=whole), BLOBS, times=2)
    read(source, image, 1_200_000, 1000)
    assert len(server.seen(BLOBS)) == 3
    server.lie(lambda request, reply: Reply(200, body=whole), BLOBS)
    with pytest.raises(ResponseInvalid, match="serves no ranges"):
        read(source, image, 1_200_000, 1000)
    source.close()


@case(26)
def test_the_whole_of_a_huge_blob_for_a_range_far_into_it_is_neither_read_nor_waited_for(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    huge = replace(image.layers[0], size=3_000_001_000)
    announced = (("Content-Length", str(huge.size)),)
    server.lie(lambda request, reply: Reply(200, announced, bytes(50_000), cut=50_000, stall=True), BLOBS)
    with pytest.raises(ResponseInvalid, match="serves no ranges"):
        list(source.read_at(huge, 3_000_000_000, 1000))
    assert source.bytes_received == 0
    assert server.connections == len(server.seen(BLOBS)) == 4, "closed, not drained, and each time a range"
    assert {one.headers["range"] for one in server.requests} == {"bytes=3000000000-3000000999"}


@case(27)
def test_a_part_marked_200_is_taken_if_it_fits(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(lambda request, reply: replace(reply, status=200), BLOBS, times=1)
    read(source, image)
    assert len(server.seen(BLOBS)) == 1


@pytest.mark.parametrize("name", ["start", "end beyond", "unknown total", "short length", "long length"])
@case(27)
def test_a_part_marked_200_that_does_not_fit_is_not_taken(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage, name: str
) -> None:
    server.lie(lambda request, reply: replace(LIES[name](request, reply), status=200), BLOBS, times=1)
    read(source, image)
    assert len(server.seen(BLOBS)) == 2


def test_a_whole_blob_that_breaks_off_is_continued_with_a_range(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(lambda request, reply: replace(reply, cut=400_000), BLOBS, times=1)
    layer = image.layers[0]
    assert b"".join(source.read_blob(layer)) == image.contents[layer.digest]
    assert [request.headers.get("range") for request in server.seen(BLOBS)] == [None, "bytes=400000-700000"]


def test_a_blob_with_other_bytes_fails_its_digest(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    layer = image.layers[0]
    server.blobs[layer.digest] = noise(700_001, 77)
    with pytest.raises(DigestMismatch, match=f"instead of {layer.digest}"):
        list(source.read_blob(layer))


@case(31)
def test_every_request_asks_for_plain_bytes(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    source.manifest(source.resolve())
    read(source, image)
    list(source.read_blob(image.layers[0]))
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


@case(35)
def test_a_drip_ends_with_the_deadline(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    """Each byte arrives in time, the whole never would."""
    server.lie(lambda request, reply: replace(reply, drip=0.02), BLOBS)
    source = open_source(parse_reference(store(image, server)), replace(options, timeout=0.6))
    with pytest.raises(Unreachable, match=r"the deadline of 0.6 s passed"):
        list(source.read_at(image.layers[0], 0, 100_000))
    source.close()


@case(35)
def test_a_silent_registry_ends_with_the_deadline(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    server.lie(lambda request, reply: replace(reply, cut=0, stall=True), BLOBS)
    source = open_source(
        parse_reference(store(image, server)), replace(options, timeout=0.7, stall_timeout=0.3)
    )
    with pytest.raises(Unreachable, match=r"cannot reach registry .* to read bytes 0-99"):
        list(source.read_at(image.layers[0], 0, 100))
    source.close()


@case(36)
def test_a_wish_to_be_left_alone_beyond_the_deadline_fails_at_once_for_all(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(lambda request, reply: Reply(429, (("Retry-After", "600"),)), BLOBS, times=1)
    with pytest.raises(Unreachable, match=r"429.*wait 600 s") as first:
        read(source, image)
    assert first.value.retry_after == 600
    with pytest.raises(Unreachable, match="asked to be left alone for another 600 s"):
        read(source, image)
    assert len(server.seen(BLOBS)) == 1


@case(36)
def test_a_burst_of_server_errors_is_sat_out(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    server.lie(lambda request, reply: Reply(503), BLOBS, times=6)
    read(source, image)
    assert len(server.seen(BLOBS)) == 7


@pytest.fixture
def gone(image: SampleImage, options: RegistryOptions) -> Iterator[tuple[RegistrySource, str]]:
    """A source whose registry has gone."""
    with ScriptedRegistry() as server:
        reference = store(image, server)
        host = server.host
    source = open_source(parse_reference(reference), replace(options, timeout=0.3))
    assert isinstance(source, RegistrySource)
    yield source, host
    source.close()


@case(33)
def test_an_absent_registry_is_named_with_what_was_asked_of_it(
    gone: tuple[RegistrySource, str], image: SampleImage
) -> None:
    source, host = gone
    with pytest.raises(Unreachable) as caught:
        source.resolve()
    assert str(caught.value) == (
        f"cannot reach registry {host} to read manifest demo/py:v1: connection refused; "
        "is it running and is the address right?"
    )
    assert caught.value.temporary
    with pytest.raises(
        Unreachable, match=f"cannot reach registry {host} to read bytes 5-14 of 700001 of blob"
    ):
        list(source.read_at(image.layers[0], 5, 10))


@case(34)
def test_a_connection_the_server_closed_meanwhile_is_replaced_without_an_attempt(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    read(source, image)
    server.lie(lambda request, reply: Reply(silent=True), BLOBS, times=1)
    read(source, image)
    assert server.connections == 2


def test_connections_are_bounded_and_the_last_used_is_taken_first(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    source = open_source(parse_reference(store(image, server)), replace(options, connections=3))
    assert isinstance(source, RegistrySource)
    together = threading.Barrier(3)

    def wait(request: Request, reply: Reply) -> Reply:
        together.wait(5)
        return reply

    server.lie(wait, BLOBS, times=3)
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda at: read(source, image, at, 5000), range(12)))
    assert server.connections == 3
    for _ in range(5):
        read(source, image)
    assert (source.connections, source.requests) == (3, 17)
    source.close()


def test_warmed_connections_are_the_ones_used(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    together = threading.Barrier(4)

    def wait(request: Request, reply: Reply) -> Reply:
        together.wait(5)
        return reply

    server.lie(wait, BLOBS, times=4)
    source.warm(4)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda at: read(source, image, at, 200_000), range(4)))
    source.warm(4)
    assert server.connections == 4


def test_a_closed_source_says_so(source: RegistrySource, image: SampleImage) -> None:
    read(source, image)
    source.close()
    with pytest.raises(Unreachable, match="it was closed by this program"):
        read(source, image)


@case(40)
def test_a_forked_child_opens_connections_of_its_own(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    read(source, image)
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads, which is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            read(source, image, 5, 9999)
            os._exit(0)
        finally:
            os._exit(1)
    read(source, image, 6, 9999)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert server.connections == 2
