"""The client under the chunk store: wrong chunks make a mirror be left, and no region is fetched twice."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from chunk_store.errors import ChunkUnavailable
from chunk_store.store import ChunkStore
from launch.images.lazy_image import open_image
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch.published import publish
from tests.registry_client.cases import case
from tests.registry_client.sample import noise
from tests.support.images import Image, image_of
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry
from tests.support.trees import file, tree

BLOBS = "GET /v2/.*/blobs/"


@pytest.fixture
def converted() -> Image:
    return image_of(tree(file(b"a", noise(3_000_000, 1)), file(b"b", noise(500_000, 2))))


@pytest.fixture
def mirror() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as started:
        yield started


def read_all(root: Path, reference: str, options: RegistryOptions, converted: Image, threads: int) -> None:
    """Read the image's blob through a store, in overlapping pieces in no order, and compare."""
    opened = open_image(parse_reference(reference), options, root, None)
    (blob,) = opened.blobs
    device = converted.devices[blob.id]
    attachment = ChunkStore(root / "store").attach(opened.blobs, opened.blob_source, background=False)

    def read(offset: int) -> None:
        size = min(70_000, len(device) - offset)
        assert attachment.read(0, offset, size) == device[offset : offset + size]

    offsets = list(range(0, len(device), 20_000))
    random.Random(3).shuffle(offsets)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, offsets))
    finally:
        attachment.close()
        opened.close()


@case(37)
def test_a_mirror_whose_chunks_are_wrong_is_left_and_readers_see_only_right_ones(
    server: ScriptedRegistry,
    mirror: ScriptedRegistry,
    converted: Image,
    options: RegistryOptions,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reference = f"{server.host}/demo/py:v1"
    publish(converted, reference, tmp_path)
    mirror.blobs.update(server.blobs)
    ((name, content),) = converted.objects.items()
    mirror.blobs[f"sha256:{name}"] = noise(len(content), 9)
    directory = tmp_path / "certs.d" / server.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'[host."{mirror.url}"]\ncapabilities = ["pull"]\n')
    with caplog.at_level(logging.WARNING):
        read_all(tmp_path, reference, options, converted, threads=1)
    assert f"mirror {mirror.host} of {server.host} is left for 600 s" in caplog.text
    assert "served wrong bytes" in caplog.text
    assert len(mirror.seen(f"{BLOBS}sha256:{name}")) == 1


@case(32)
def test_a_region_that_many_want_is_fetched_once(
    server: ScriptedRegistry, converted: Image, options: RegistryOptions, tmp_path: Path
) -> None:
    reference = f"{server.host}/demo/py:v1"
    publish(converted, reference, tmp_path)
    ((name, content),) = converted.objects.items()
    read_all(tmp_path, reference, options, converted, threads=64)
    asked = [request.headers["range"] for request in server.seen(f"{BLOBS}sha256:{name}")]
    spans = sorted(tuple(int(one) for one in text.removeprefix("bytes=").split("-")) for text in asked)
    assert all(one[1] < other[0] for one, other in pairwise(spans))
    assert sum(last - first + 1 for first, last in spans) <= len(content)


@case(32)
def test_a_flight_that_fails_fails_its_waiters_once_and_not_those_who_come_later(
    server: ScriptedRegistry, converted: Image, options: RegistryOptions, tmp_path: Path
) -> None:
    reference = f"{server.host}/demo/py:v1"
    publish(converted, reference, tmp_path)
    opened = open_image(parse_reference(reference), replace(options, timeout=0.3), tmp_path, None)
    (blob,) = opened.blobs
    attachment = ChunkStore(tmp_path / "store").attach(opened.blobs, opened.blob_source, background=False)

    def refuse(request: Request, reply: Reply) -> Reply:
        return Reply(403)

    server.lie(refuse, f"{BLOBS}sha256:{blob.id}")

    def read(number: int) -> bool:
        try:
            found = attachment.read(0, 5000, 1000)
        except ChunkUnavailable as error:
            return "403" not in str(error)
        assert found == converted.devices[blob.id][5000:6000]
        return True

    with ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(read, range(16)))
        server.honest()
        assert all(pool.map(read, range(16)))
    attachment.close()
    opened.close()
