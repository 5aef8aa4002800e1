"""Mirrors of `hosts.toml`: used while they are well, left when they are not, found again, never believed."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_source
from registry_client.errors import DigestMismatch, NotFound, Unauthorized
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries import health, routes
from registry_client.registries.hosts_file import find_directory, read_sites
from registry_client.registries.registry_source import RegistrySource
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, noise, publish, read, sample_image, store
from tests.support.debian_registry import DebianRegistry
from tests.support.scripted_registry import Lie, Reply, Request, ScriptedRegistry

BLOBS = "GET /v2/.*/blobs/"
MANIFESTS = "GET /v2/.*/manifests/"
READ = b"".join


@pytest.fixture
def mirror(image: SampleImage) -> Iterator[ScriptedRegistry]:
    """A second registry with the same image."""
    with ScriptedRegistry() as started:
        store(image, started)
        yield started


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes `hosts.toml` for a registry; it is looked at on each use."""
    monkeypatch.setattr(routes, "_LOOK_SECONDS", 0.0)

    def write(host: str, *mirrors: str, more: str = 'capabilities = ["pull"]', top: str = "") -> None:
        directory = tmp_path / "certs.d" / host
        directory.mkdir(parents=True, exist_ok=True)
        entries = [f'[host."{one}"]\n{more}\n' for one in mirrors]
        fresh = directory / "new"
        fresh.write_text("\n".join([top, *entries]), encoding="utf-8")
        fresh.rename(directory / "hosts.toml")

    return write


@pytest.fixture
def source(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    image: SampleImage,
    options: RegistryOptions,
    hosts: Callable[..., None],
) -> Iterator[RegistrySource]:
    """*image*, with *mirror* before *server*."""
    hosts(server.host, mirror.url)
    opened = open_source(parse_reference(store(image, server)), options)
    assert isinstance(opened, RegistrySource)
    yield opened
    opened.close()


def asked(server: ScriptedRegistry, pattern: str = BLOBS) -> int:
    return len(server.seen(pattern))


@case(37)
def test_a_mirror_serves_digests_and_the_registry_says_what_tags_are(
    server: ScriptedRegistry, mirror: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    mirror.add_manifest("demo/py", "v1", b"{}", image.media_type)  # what the tag was long ago
    assert source.resolve() == image.descriptor()
    source.manifest(image.descriptor())
    for offset in range(5):
        read(source, image, offset)
    READ(source.read_blob(image.config))
    assert (asked(mirror, MANIFESTS), asked(server, MANIFESTS)) == (0, 1)
    assert (asked(mirror), asked(server)) == (6, 0)
    assert {request.query["ns"][0] for request in mirror.seen(BLOBS)} == {server.host}
    assert all("ns=" not in request.target for request in server.requests)


@case(37)
def test_a_mirror_that_may_resolve_is_asked_for_tags_as_well(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    hosts: Callable[..., None],
) -> None:
    hosts(server.host, mirror.url, more="")
    assert source.resolve() == image.descriptor()
    assert (asked(mirror, MANIFESTS), asked(server, MANIFESTS)) == (1, 0)


LIES: dict[str, Lie] = {
    "404": lambda request, reply: Reply(404),
    "401": lambda request, reply: Reply(401, (("WWW-Authenticate", 'Basic realm="mirror"'),)),
    "403": lambda request, reply: Reply(403),
    "500": lambda request, reply: Reply(500),
    "429": lambda request, reply: Reply(429, (("Retry-After", "600"),)),
    "hanging": lambda request, reply: replace(reply, cut=0, stall=True),
    "cut": lambda request, reply: replace(reply, cut=100),
    "drip": lambda request, reply: replace(reply, drip=0.05),
    "wrong range": lambda request, reply: reply.having(Content_Range="bytes 0-1/2"),
    "closed": lambda request, reply: Reply(silent=True),
}


@case(37)
@pytest.mark.parametrize("name", LIES)
def test_the_registry_serves_when_the_mirror_does_not_and_soon_alone(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,  # mirror and image are where they belong
    image: SampleImage,
    options: RegistryOptions,
    name: str,
) -> None:
    mirror.lie(LIES[name], BLOBS)
    if name in ("hanging", "drip"):
        options = replace(options, timeout=3.0, stall_timeout=0.5)
    opened = open_source(parse_reference(f"{server.host}/demo/py:v1"), options)
    assert isinstance(opened, RegistrySource)
    for offset in range(6):
        read(opened, image, offset, 200)
    opened.close()
    assert asked(server) == 6
    assert asked(mirror) <= 2, "a mirror that fails is not asked by every reader"


@case(37)
def test_a_mirror_that_is_down_is_found_again_by_a_probe_and_not_by_readers(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health.Health, "_next_rest", lambda self: 0.05)
    mirror.lie(lambda request, reply: Reply(503), BLOBS)
    mirror.lie(lambda request, reply: Reply(503), "GET /v2/$", times=2)
    for offset in range(4):
        read(source, image, offset)
    before = asked(mirror)
    mirror.honest()
    end = time.monotonic() + 5
    while asked(mirror) == before and time.monotonic() < end:
        read(source, image)
        time.sleep(0.02)
    assert asked(mirror, "GET /v2/$"), "a probe comes first"
    assert asked(mirror) > before
    before = asked(server)
    read(source, image)
    assert asked(server) == before


@case(37)
def test_wrong_bytes_are_reported_and_the_mirror_is_left(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = image.layers[0]
    mirror.blobs[layer.digest] = noise(layer.size, 8)
    mirror.blobs[image.config.digest] = b"x" * image.config.size
    with caplog.at_level(logging.WARNING):
        assert READ(source.read_blob(image.config)) == image.contents[image.config.digest]
    assert "served wrong bytes" in caplog.text
    assert mirror.host in caplog.text
    read(source, image)
    assert asked(mirror) == 1, "not even for other content"


@case(37)
def test_who_checks_chunks_can_say_that_a_range_was_wrong(
    server: ScriptedRegistry, mirror: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    layer = image.layers[0]
    mirror.blobs[layer.digest] = noise(layer.size, 8)
    assert READ(source.read_at(layer, 0, 1000)) != image.contents[layer.digest][:1000]
    source.distrust(layer, 500_000, 10)
    assert READ(source.read_at(layer, 0, 1000)) != image.contents[layer.digest][:1000]
    source.distrust(layer, 999, 1)
    read(source, image)


@case(37)
def test_a_wrong_manifest_of_a_mirror_is_never_seen(
    server: ScriptedRegistry, mirror: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    mirror.manifests[f"demo/py@{image.descriptor().digest}"] = (b"{}", image.media_type)
    assert source.manifest(image.descriptor()).raw == image.manifest
    assert asked(server, MANIFESTS) == 1


@case(37)
def test_a_large_blob_that_a_mirror_spoils_is_an_error_once(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from registry_client.registries import mirrors

    monkeypatch.setattr(mirrors, "HELD", 1000)
    layer = image.layers[0]
    mirror.blobs[layer.digest] = noise(layer.size, 8)
    with pytest.raises(DigestMismatch):
        READ(source.read_blob(layer))
    assert READ(source.read_blob(layer)) == image.contents[layer.digest]


@case(37)
def test_a_mirror_never_gets_the_registrys_account(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    image: SampleImage,
    options: RegistryOptions,
    hosts: Callable[..., None],
    tmp_path: Path,
) -> None:
    server.require_account("alice", "planted")
    mirror.require_account("mirror-user", "other")
    hosts(server.host, mirror.url)
    reference = parse_reference(store(image, server))
    source = open_source(reference, replace(options, creds="alice:planted"))
    assert isinstance(source, RegistrySource)
    read(source, image)
    source.close()
    assert all("authorization" not in request.headers for request in mirror.requests)
    config = tmp_path / "home" / ".docker" / "config.json"
    config.parent.mkdir()
    accounts = {
        server.host: {"username": "alice", "password": "planted"},
        mirror.host: {"username": "mirror-user", "password": "other"},
    }
    config.write_text(json.dumps({"auths": accounts}))
    source = open_source(reference, options)
    assert isinstance(source, RegistrySource)
    before = asked(server)
    read(source, image)
    assert asked(server) == before, "the mirror has an account of its own"
    source.close()


@case(37)
def test_a_changed_file_is_taken_up_while_reading(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    hosts: Callable[..., None],
) -> None:
    read(source, image)
    hosts(server.host)
    read(source, image)
    hosts(server.host, mirror.url)
    read(source, image)
    hosts(server.host, mirror.url, more='capabilities = ["resolve"]')
    read(source, image)
    assert (asked(mirror), asked(server)) == (2, 2)


@case(37)
def test_its_path_and_headers_are_as_the_file_says(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    storage: ScriptedRegistry,
    image: SampleImage,
    hosts: Callable[..., None],
) -> None:
    layer = image.layers[0]
    storage.files["/data"] = image.contents[layer.digest]

    def elsewhere(request: Request, reply: Reply) -> Reply:
        return Reply(307, (("Location", f"{storage.url}/data"),))

    mirror.lie(elsewhere, "GET /cache/api/demo/py/blobs/")
    header = f'[host."{mirror.url}/cache/api".header]\nx-team = ["a", "b"]'
    hosts(server.host, f"{mirror.url}/cache/api", more=f"override_path = true\n{header}")
    read(source, image)
    (request,) = mirror.seen("GET ")
    assert request.path == f"/cache/api/demo/py/blobs/{layer.digest}"
    assert request.headers["x-team"] == "a, b"
    assert "x-team" not in storage.requests[0].headers
    hosts(server.host, f"{mirror.url}/cache")
    read(source, image)
    assert mirror.requests[-1].path.startswith("/cache/v2/demo/py/blobs/")


@case(37, on=Server.NONE)
def test_what_the_file_says_of_trust_is_understood(tmp_path: Path, options: RegistryOptions) -> None:
    directory = tmp_path / "certs.d" / "registry.example_5000_"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        """
server = "https://registry.example:5000"
ca = "own.pem"
[host."https://a.example"]
  ca = ["one.pem", "/two.pem"]
  client = [["c.pem", "k.pem"], ["both.pem", ""]]
  dial_timeout = "250ms"
[host."https://b.example/x"]
  skip_verify = true
  capabilities = ["pull"]
[host."https://user:planted@c.example"]
[host."ftp://d.example"]
[host."https://e.example"]
  dial_timeout = "soon"
""",
        encoding="utf-8",
    )
    assert find_directory("registry.example:5000", options) == directory
    first, second, own = read_sites(directory, "registry.example:5000", options)
    assert (str(first.origin), first.namespace, first.dial_timeout) == (
        "a.example",
        "registry.example:5000",
        0.25,
    )
    assert first.trust is not None
    assert first.trust.authorities == (directory / "one.pem", Path("/two.pem"))
    assert first.trust.client == ((directory / "c.pem", directory / "k.pem"), (directory / "both.pem", None))
    assert second.trust is not None
    assert (second.prefix, second.trust.verify, second.resolve) == ("/x/v2", False, False)
    assert own.trust is not None
    assert (str(own.origin), own.trust.authorities, own.namespace) == (
        "registry.example:5000",
        (directory / "own.pem",),
        "",
    )


@case(37, on=Server.NONE)
@pytest.mark.parametrize("text", ["[host", "server = 5", '[host."http://["]', "host = 3", "\x00", ""])
def test_a_broken_file_leaves_the_registry_itself(
    tmp_path: Path, options: RegistryOptions, text: str
) -> None:
    (tmp_path / "hosts.toml").write_text(text, encoding="utf-8")
    (own,) = read_sites(tmp_path, "127.0.0.1:5000", options)
    assert own.origin == ("http", "127.0.0.1", 5000)


@case(37, on=Server.NONE)
def test_the_most_particular_directory_counts_and_default_for_the_rest(
    tmp_path: Path, options: RegistryOptions
) -> None:
    options = replace(options, environment={"NOPULL_HOSTS_DIR": str(tmp_path)})
    assert find_directory("registry.example:5000", options) is None
    for name in ("_default", "registry.example:5000", "registry.example_5000_"):
        (tmp_path / name).mkdir()
        assert find_directory("registry.example:5000", options) == tmp_path / name
        assert find_directory("other.example", options) == tmp_path / "_default"


@case(37, on=Server.NONE)
def test_dockers_layout_of_certificates_is_read_as_well(tmp_path: Path, options: RegistryOptions) -> None:
    for name in ("a.crt", "me.cert", "me.key"):
        (tmp_path / name).touch()
    (own,) = read_sites(tmp_path, "registry.example", options)
    assert own.trust is not None
    assert own.trust.authorities == (tmp_path / "a.crt",)
    assert own.trust.client == ((tmp_path / "me.cert", tmp_path / "me.key"),)


@case(37)
def test_content_that_no_way_has_is_the_registrys_own_answer(
    server: ScriptedRegistry, source: RegistrySource, image: SampleImage
) -> None:
    del server.blobs[image.layers[0].digest]
    source.distrust(image.layers[0], 0, 10)
    other = sample_image(noise(5000, 99)).layers[0]
    with pytest.raises(NotFound, match=f"registry {server.host} cannot read"):
        READ(source.read_at(other, 0, 10))
    server.require_account("alice", "planted")
    with pytest.raises(Unauthorized, match=f"registry {server.host}"):
        source.resolve()


@case(38)
@pytest.mark.parametrize(
    ("status", "blame", "left"),
    [(429, "proxy", True), (502, "backend", False), (500, "dfdaemon", True), (404, "backend", False)],
)
def test_a_peers_own_failures_count_against_it_and_the_registrys_do_not(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    hosts: Callable[..., None],
    status: int,
    blame: str,
    left: bool,
) -> None:
    header = f'[host."{mirror.url}".header]\nX-Dragonfly-Registry = "https://{server.host}"'
    hosts(server.host, mirror.url, more=header)
    headers = (("X-Dragonfly-Error-Type", blame), ("Retry-After", "0"))
    mirror.lie(lambda request, reply: Reply(status, headers), BLOBS)
    for offset in range(5):
        read(source, image, offset)
    assert asked(server) == 5
    assert asked(mirror) == (2 if left else 5)
    assert mirror.requests[0].headers["x-dragonfly-registry"] == f"https://{server.host}"


@case(38)
@pytest.mark.parametrize("lie", ["whole", "cut", "gone"])
def test_a_peer_that_breaks_off_or_ignores_ranges_costs_no_wrong_byte(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    hosts: Callable[..., None],
    lie: str,
) -> None:
    hosts(server.host, mirror.url, more=f'[host."{mirror.url}".header]\nX-Dragonfly-Registry = "x"')
    whole = image.contents[image.layers[0].digest]
    if lie == "gone":
        mirror.stop()
    elif lie == "whole":
        mirror.lie(lambda request, reply: Reply(200, body=whole), BLOBS)
    else:
        mirror.lie(lambda request, reply: replace(reply, cut=70_000), BLOBS)
    read(source, image, 5, 300_000)
    if lie == "cut":
        assert server.seen(BLOBS)[0].headers["range"] == "bytes=70005-300004"


@case(38)
def test_a_fleet_without_its_peers_does_not_fall_upon_the_registry(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    hosts: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from registry_client.registries import mirrors

    monkeypatch.setattr(mirrors, "DIRECT_BURST", 3)
    monkeypatch.setattr(mirrors, "DIRECT_RATE", 20.0)
    hosts(server.host, mirror.url, more=f'[host."{mirror.url}".header]\nX-Dragonfly-Registry = "x"')
    mirror.lie(lambda request, reply: Reply(503), ".")
    started = time.monotonic()
    readers = [threading.Thread(target=read, args=(source, image, offset)) for offset in range(9)]
    for one in readers:
        one.start()
    for one in readers:
        one.join()
    assert asked(server) == 9
    assert time.monotonic() - started >= 5 / 20, "six of them had to wait for their turn"


@case(38)
def test_a_peer_that_is_well_again_is_asked_again(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    hosts: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health.Health, "_next_rest", lambda self: 0.05)
    hosts(server.host, mirror.url, more=f'[host."{mirror.url}".header]\nX-Dragonfly-Registry = "x"')
    ill = (("X-Dragonfly-Error-Type", "dfdaemon"),)
    mirror.lie(lambda request, reply: Reply(500, ill), ".")
    for offset in range(3):
        read(source, image, offset)
    before = asked(mirror)
    assert (before, asked(server)) == (2, 3)
    mirror.honest()
    end = time.monotonic() + 5
    while asked(mirror) == before and time.monotonic() < end:
        read(source, image)
        time.sleep(0.02)
    direct = asked(server)
    read(source, image)
    assert asked(mirror) > before
    assert asked(server) == direct


@case(38)
def test_tokens_are_fetched_without_the_peer(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    storage: ScriptedRegistry,
    source: RegistrySource,
    image: SampleImage,
    hosts: Callable[..., None],
) -> None:
    hosts(server.host, mirror.url, more=f'[host."{mirror.url}".header]\nX-Dragonfly-Registry = "x"')
    mirror.require_token(realm=f"{storage.url}/token")
    mirror.accept_token("token-1")
    read(source, image)
    (request,) = storage.requests
    assert request.path == "/token"
    assert "x-dragonfly-registry" not in request.headers


@pytest.mark.system
@case(37, on=Server.DEBIAN)
def test_debians_registry_as_a_pull_through_mirror(
    image: SampleImage, options: RegistryOptions, hosts: Callable[..., None]
) -> None:
    with DebianRegistry() as registry:
        publish(image, f"{registry.host}/demo/py:v1", options)
        with DebianRegistry(settings={"proxy": {"remoteurl": registry.url}}) as cache:
            hosts(registry.host, cache.url, more="")
            source = open_source(parse_reference(f"{registry.host}/demo/py:v1"), options)
            assert isinstance(source, RegistrySource)
            source.manifest(source.resolve())
            read(source, image)
            os.kill(cache.pid, 9)
            cache.stop()
            read(source, image, 7)
            source.close()
