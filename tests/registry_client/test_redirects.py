"""Blobs that lie elsewhere: followed by hand, without credentials, and remembered until the URL expires."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_client.errors import RegistryError, ResponseInvalid, Unauthorized
from registry_client.registries.registry_source import RegistrySource
from registry_client.transport.connections import Origin
from registry_client.transport.redirect import Location, parse_location
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, read
from tests.support.letters import LETTERS
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

BLOBS = "GET /v2/.*/blobs/"
SIGNED = "/store/a%2fb+c//~x?X-Sig=planted%2Fsecret+~&e=1"


def leads_to(place: str) -> Callable[[Request, Reply], Reply]:
    def redirect(request: Request, reply: Reply) -> Reply:
        return reply if reply.status == 401 else Reply(307, (("Location", place),), b"<a href=elsewhere>")

    return redirect


@pytest.fixture
def redirected(server: ScriptedRegistry, storage: ScriptedRegistry, image: SampleImage) -> SampleImage:
    """*image*, whose layer lies on *storage*."""
    storage.files[SIGNED.partition("?")[0]] = image.contents[image.layers[0].digest]
    server.lie(leads_to(storage.url + SIGNED), BLOBS)
    return image


@case(4)
def test_a_hundred_reads_ask_the_registry_once(
    server: ScriptedRegistry, storage: ScriptedRegistry, source: RegistrySource, redirected: SampleImage
) -> None:
    for number in range(100):
        read(source, redirected, number)
    assert len(server.seen(BLOBS)) == 1
    assert len(storage.requests) == 100
    assert {request.method for request in storage.requests} == {"GET"}


@case(25)
def test_a_url_is_used_byte_for_byte(
    storage: ScriptedRegistry, source: RegistrySource, redirected: SampleImage
) -> None:
    read(source, redirected)
    assert storage.requests[0].target == SIGNED


@case(22)
def test_credentials_stay_with_the_registry(
    server: ScriptedRegistry,
    storage: ScriptedRegistry,
    source: RegistrySource,
    redirected: SampleImage,
    tmp_path: Path,
) -> None:
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("default login someone password planted\n")
    netrc.chmod(0o600)
    server.require_token()
    read(source, redirected)
    read(source, redirected)
    assert "authorization" in server.seen(BLOBS)[-1].headers
    for request in storage.requests:
        assert set(request.headers) == {"host", "user-agent", "accept-encoding", "range"}


@case(21, 18)
def test_an_expired_url_is_renewed_once(
    server: ScriptedRegistry, storage: ScriptedRegistry, source: RegistrySource, redirected: SampleImage
) -> None:
    read(source, redirected)
    for status, body in (
        (403, b"<Error>AccessDenied</Error>"),
        (401, b""),
        (404, b""),
        (400, b"ExpiredToken"),
    ):
        before = len(server.seen(BLOBS))
        storage.lie(lambda request, reply, s=status, b=body: Reply(s, body=b), "GET /store", times=1)  # type: ignore[misc]
        read(source, redirected)
        assert len(server.seen(BLOBS)) == before + 1


@case(21)
def test_sixty_four_readers_share_one_renewal(
    server: ScriptedRegistry, storage: ScriptedRegistry, source: RegistrySource, redirected: SampleImage
) -> None:
    read(source, redirected)
    storage.files["/store/new"] = storage.files.pop(SIGNED.partition("?")[0])
    server.honest()
    server.lie(leads_to(f"{storage.url}/store/new?sig=2"), BLOBS)
    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda at: read(source, redirected, at), range(64)))
    assert len(server.seen(BLOBS)) == 2


@case(21)
def test_a_url_refused_twice_is_an_error_that_keeps_its_query_secret(
    server: ScriptedRegistry, storage: ScriptedRegistry, source: RegistrySource, redirected: SampleImage
) -> None:
    read(source, redirected)
    storage.lie(lambda request, reply: Reply(403, body=b"<Error/>"), "GET /store")
    with pytest.raises(
        Unauthorized, match=f"storage host {storage.host} of registry {server.host}"
    ) as caught:
        read(source, redirected)
    assert "planted" not in str(caught.value)
    assert len(server.seen(BLOBS)) == 2


def test_a_storage_host_that_is_gone_is_left_for_what_the_registry_says_now(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    with ScriptedRegistry() as short_lived:
        short_lived.files["/x"] = image.contents[image.layers[0].digest]
        server.lie(leads_to(f"{short_lived.url}/x"), BLOBS, times=1)
        read(source, image)
    read(source, image)
    assert len(server.seen(BLOBS)) == 2


@case(23)
def test_two_hops_are_followed_and_the_last_remembered(
    server: ScriptedRegistry, storage: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    storage.files["/end"] = image.contents[image.layers[0].digest]
    storage.lie(leads_to("end?relative=1"), "GET /hop")
    server.lie(leads_to(f"{storage.url}/hop"), BLOBS)
    read(source, image)
    read(source, image)
    assert [request.path for request in storage.requests] == ["/hop", "/end", "/end"]


@case(23)
def test_a_loop_ends(server: ScriptedRegistry, source: RegistrySource, image: SampleImage) -> None:
    server.lie(lambda request, reply: Reply(302, (("Location", request.target),)), BLOBS)
    with pytest.raises(ResponseInvalid, match="more than 5 times"):
        read(source, image)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file:///etc/passwd", "scheme 'file'"),
        ("gopher://127.0.0.1/", "scheme 'gopher'"),
        ("http://[::1/", "no usable host"),
        ("http://user:planted@127.0.0.1/", "no usable host"),
        ("http:///nowhere", "no usable host"),
        ("http://127.0.0.1:99999/", "no usable host"),
        ("http://127.0.0.1/a b", "characters"),
        ("", "without saying where to"),
    ],
)
@case(23)
def test_unusable_places_are_refused(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage, place: str, why: str
) -> None:
    server.lie(leads_to(place), BLOBS)
    with pytest.raises(ResponseInvalid, match=why) as caught:
        read(source, image)
    assert "planted" not in str(caught.value)
    assert len(server.seen(BLOBS)) == 1


@case(23, on=Server.NONE)
def test_https_never_leads_to_http() -> None:
    base = Location(Origin("https", "registry.example", 443), "/v2/x")
    with pytest.raises(ResponseInvalid, match="from HTTPS to plain HTTP"):
        parse_location("http://storage.example/y", base)
    assert parse_location("//storage.example/y", base).origin == Origin("https", "storage.example", 443)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(LETTERS, max_size=80))
def test_any_location_is_a_place_or_an_error_of_ours(text: str) -> None:
    base = Location(Origin("http", "h", 80), "/v2/x/blobs/y?z")
    try:
        place = parse_location(text, base)
    except RegistryError:
        return
    assert place.origin.scheme in ("http", "https")
    assert all("!" <= letter <= "~" for letter in place.target)
    assert place.target


def test_manifests_may_lie_elsewhere_too(
    server: ScriptedRegistry, storage: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    def elsewhere(request: Request, reply: Reply) -> Reply:
        return Reply(200, (("Content-Type", image.media_type),), image.manifest)

    storage.lie(elsewhere, "GET /m")
    server.lie(leads_to(f"{storage.url}/m"), "GET /v2/.*/manifests/")
    assert source.resolve() == image.descriptor()
