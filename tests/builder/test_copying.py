"""Images that are copied as they are: some blobs at a time, never more, and the manifest last."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.copying import COPIERS, bring_image
from builder.progress import SilentProgress
from registry_client import open_destination, open_source
from registry_client.errors import NotFound
from registry_client.manifest import Manifest
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.registry_client.sample import SampleImage, noise, sample_image, store
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

OPTIONS = RegistryOptions(timeout=20)


@pytest.fixture
def server() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as started:
        yield started


def copy(image: SampleImage, server: ScriptedRegistry, to: str, directory: Path) -> None:
    source = open_source(parse_reference(store(image, server)), OPTIONS)
    destination = open_destination(parse_reference(to), OPTIONS)
    try:
        manifest = source.manifest(source.resolve())
        assert isinstance(manifest, Manifest)
        bring_image(
            source, None, manifest, destination,
            tag="v1", directory=directory, progress=SilentProgress(),
        )  # fmt: skip
    finally:
        source.close()
        destination.close()


def test_some_blobs_are_copied_at_a_time_and_never_more(server: ScriptedRegistry, tmp_path: Path) -> None:
    image = sample_image(*(noise(1000, number) for number in range(3 * COPIERS - 1)))
    together = threading.Barrier(COPIERS)
    lock = threading.Lock()
    reading: list[int] = [0, 0]

    def meet(request: Request, reply: Reply) -> Reply:
        with lock:
            reading[0] += 1
            reading[1] = max(reading)
        together.wait(10)
        with lock:
            reading[0] -= 1
        return reply

    server.lie(meet, "GET /v2/demo/py/blobs/")
    copy(image, server, f"oci:{tmp_path / 'copy'}:v1", tmp_path)
    assert reading == [0, COPIERS]
    copied = open_source(parse_reference(f"oci:{tmp_path / 'copy'}:v1"), OPTIONS)
    for layer in image.layers:
        assert b"".join(copied.read_blob(layer)) == image.contents[layer.digest]
    copied.close()


def test_a_blob_that_is_listed_twice_is_copied_once(server: ScriptedRegistry, tmp_path: Path) -> None:
    layer = noise(1000, 1)
    with ScriptedRegistry() as other:
        copy(sample_image(layer, layer), server, f"{other.host}/copy:v1", tmp_path)
        assert len(other.seen("POST ")) == 2, "the layer and the config"
        assert other.requests[-1].method == "PUT"
        assert "/manifests/" in other.requests[-1].path


def test_a_blob_that_cannot_be_copied_ends_it_without_a_manifest(
    server: ScriptedRegistry, tmp_path: Path
) -> None:
    image = sample_image(*(noise(1000, number) for number in range(20)))
    server.lie(lambda request, reply: Reply(404), f"GET .*{image.layers[5].digest}")
    with ScriptedRegistry() as other:
        with pytest.raises(NotFound, match=image.layers[5].digest):
            copy(image, server, f"{other.host}/copy:v1", tmp_path)
        assert not other.seen("PUT .*/manifests/")
        assert not other.uploads
