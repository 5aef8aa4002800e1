"""What Debian's docker-registry can show of the client: accounts, redirects, cold caches, going away and
coming back.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_source
from registry_client.errors import NotFound, Unauthorized, Unreachable
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_source import RegistrySource
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, publish, read
from tests.support.debian_registry import DebianRegistry
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = pytest.mark.system


@pytest.fixture
def registry() -> Iterator[DebianRegistry]:
    with DebianRegistry() as started:
        yield started


def opened(registry: DebianRegistry, options: RegistryOptions) -> RegistrySource:
    source = open_source(parse_reference(f"{registry.host}/demo/py:v1"), options)
    assert isinstance(source, RegistrySource)
    return source


def test_its_log_shows_exactly_what_was_asked(
    registry: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{registry.host}/demo/py:v1", options)
    before = len(registry.accesses())
    source = opened(registry, options)
    source.manifest(source.resolve())
    read(source, image, 5000, 1000)
    read(source, image, 699_001, 1000)
    source.close()
    seen = registry.accesses()[before:]
    assert [(one.method, one.status, one.size) for one in seen] == [
        ("GET", 200, len(image.manifest)),
        ("GET", 206, 1000),
        ("GET", 206, 1000),
    ]


@case(19, on=Server.DEBIAN)
def test_accounts_come_from_the_docker_configuration(
    image: SampleImage, options: RegistryOptions, tmp_path: Path
) -> None:
    with DebianRegistry(accounts={"alice": "pass:word"}) as registry:
        config = tmp_path / "home" / ".docker" / "config.json"
        config.parent.mkdir()
        entry = {"username": "alice", "password": "pass:word"}
        config.write_text(json.dumps({"auths": {registry.host: entry}}))
        publish(image, f"{registry.host}/demo/py:v1", options)
        source = opened(registry, options)
        source.resolve()
        source.close()
        for creds in ("alice:planted", "bob:planted"):
            source = opened(registry, replace(options, creds=creds))
            with pytest.raises(Unauthorized, match="401"):
                source.resolve()
            source.close()
        config.unlink()
        source = opened(registry, options)
        with pytest.raises(Unauthorized, match="log in"):
            source.resolve()
        source.close()


@case(5, on=Server.DEBIAN)
def test_relative_upload_locations_work(image: SampleImage, options: RegistryOptions) -> None:
    with DebianRegistry(settings={"http": {"relativeurls": True}}) as registry:
        publish(image, f"{registry.host}/demo/py:v1", options)
        source = opened(registry, options)
        assert source.resolve() == image.descriptor()
        source.close()


@case(4, on=Server.BOTH)
def test_its_redirects_are_followed_and_remembered(
    storage: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    layer = image.layers[0]
    hexadecimal = layer.digest.removeprefix("sha256:")
    path = f"/docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
    storage.files[path] = image.contents[layer.digest]
    middleware = {"storage": [{"name": "redirect", "options": {"baseurl": storage.url}}]}
    with DebianRegistry(settings={"middleware": middleware}) as registry:
        publish(image, f"{registry.host}/demo/py:v1", options)
        before = len(registry.accesses())
        source = opened(registry, options)
        for offset in range(20):
            read(source, image, offset)
        source.close()
        assert [one.status for one in registry.accesses()[before:]] == [307]
        assert len(storage.requests) == 20


@case(26, on=Server.DEBIAN)
def test_a_cold_pull_through_cache_gives_right_bytes_before_it_serves_ranges(
    registry: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{registry.host}/demo/py:v1", options)
    with DebianRegistry(settings={"proxy": {"remoteurl": registry.url}}) as cache:
        source = opened(cache, options)
        for offset in (100_000, 200_000, 300_000):
            read(source, image, offset)
        source.close()


@case(33, 34, on=Server.DEBIAN)
def test_a_registry_that_went_away_is_read_again_when_it_is_back(
    registry: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{registry.host}/demo/py:v1", options)
    source = opened(registry, replace(options, timeout=0.5))
    read(source, image, 0)
    registry.stop()
    with pytest.raises(Unreachable, match="connection refused"):
        read(source, image, 0)
    registry.start()
    read(source, image, 0)
    source.close()


@case(21, on=Server.DEBIAN)
def test_a_deleted_blob_is_not_found(
    registry: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{registry.host}/demo/py:v1", options)
    source = opened(registry, options)
    read(source, image, 0)
    layer = image.layers[0]
    subprocess.run(
        ["curl", "-fsS", "-X", "DELETE", f"{registry.url}/v2/demo/py/blobs/{layer.digest}"], check=True
    )
    with pytest.raises(NotFound, match=layer.digest):
        list(source.read_blob(layer))
    source.close()


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_finds_what_we_published(
    registry: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{registry.host}/demo/py:v1", options)
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/demo/py:v1"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == image.manifest
