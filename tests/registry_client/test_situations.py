"""Situations that belong to no single part: names to manifests, lies in documents, many readers, months."""

from __future__ import annotations

import gc
import json
import os
import random
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_source
from registry_client.accounts import credentials
from registry_client.accounts.auth_file import AuthFile, load_auth_file
from registry_client.digest import digest_of
from registry_client.errors import (
    DigestMismatch,
    ManifestInvalid,
    MediaTypeUnknown,
    NotFound,
    ReferenceInvalid,
    RegistryError,
    ResponseInvalid,
    Unauthorized,
    Unreachable,
)
from registry_client.manifest import Descriptor, Index, Manifest, MediaType, parse_manifest
from registry_client.options import RegistryOptions
from registry_client.platform import Platform
from registry_client.reference import parse_reference
from registry_client.registries.registry_destination import RegistryDestination
from registry_client.registries.registry_source import RegistrySource
from registry_client.selection import find_manifest
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, index_of, noise, publish, sample_image, store
from tests.support.debian_registry import DebianRegistry
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

MANIFESTS = "(GET|HEAD) /v2/.*/manifests/"
BLOBS = "GET /v2/.*/blobs/"


def open_at(reference: str, options: RegistryOptions) -> RegistrySource:
    opened = open_source(parse_reference(reference), options)
    assert isinstance(opened, RegistrySource)
    return opened


def put_index(host: str, tag: str, raw: bytes, options: RegistryOptions) -> Descriptor:
    destination = RegistryDestination(parse_reference(f"{host}/demo/py:{tag}"), options)
    try:
        return destination.put_manifest(raw, MediaType.OCI_INDEX, tag=tag)
    finally:
        destination.close()


@pytest.mark.system
@case(1, on=Server.DEBIAN)
def test_a_tag_leads_to_the_first_manifest_of_the_platform(options: RegistryOptions) -> None:
    images = [sample_image(noise(100, number)) for number in range(6)]
    with DebianRegistry() as registry:
        for one in images:
            publish(one, f"{registry.host}/demo/py:v1", options)

        def entry(number: int, architecture: str | None = None, variant: str = "") -> dict[str, object]:
            platform = Platform("linux", architecture, variant) if architecture else None
            return replace(images[number].descriptor(), platform=platform).to_json()

        attestation = {
            **entry(0, "unknown"),
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        }
        inner = put_index(registry.host, "inner", index_of(entry(1, "riscv64")), options)
        nested = {**inner.to_json(), "platform": {"os": "linux", "architecture": "riscv64"}}
        listed = index_of(attestation, entry(2, "arm64"), entry(3, "arm64", "v8"), nested)
        put_index(registry.host, "v1", listed, options)
        source = open_at(f"{registry.host}/demo/py:v1", options)
        for platform, number in ((Platform("linux", "arm64", "v8"), 2), (Platform("linux", "riscv64"), 1)):
            assert find_manifest(source, platform).raw == images[number].manifest
        with pytest.raises(NotFound, match="not available for linux/s390x; its index offers linux/arm64"):
            find_manifest(source, Platform("linux", "s390x"))
        put_index(registry.host, "v1", index_of(attestation, entry(4)), options)
        assert find_manifest(source, Platform("linux", "s390x")).raw == images[4].manifest, "says no platform"
        deep = inner
        for _ in range(6):
            raw = index_of({**deep.to_json(), "platform": {"os": "linux", "architecture": "riscv64"}})
            deep = put_index(registry.host, "v1", raw, options)
        with pytest.raises(ManifestInvalid, match="levels deep"):
            find_manifest(source, Platform("linux", "riscv64"))
        source.close()


@case(2)
@pytest.mark.parametrize("announced", [None, "sha256:" + "0" * 64, "sha512:" + "0" * 128, "nonsense"])
def test_a_digest_is_what_counts_and_not_what_it_is_announced_as(
    server: ScriptedRegistry,
    image: SampleImage,
    options: RegistryOptions,
    announced: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store(image, server)

    def announce(request: Request, reply: Reply) -> Reply:
        kept = tuple(pair for pair in reply.headers if pair[0] != "Docker-Content-Digest")
        return replace(reply, headers=(*kept, ("Docker-Content-Digest", announced)) if announced else kept)

    server.lie(announce, MANIFESTS)
    source = open_at(f"{server.host}/demo/py@{image.descriptor().digest}", options)
    assert source.resolve() == image.descriptor()
    assert ("its bytes are right" in caplog.text) == (announced is not None)
    source.close()


@case(2)
def test_a_wrong_body_for_a_digest_is_fatal_and_not_kept(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    store(image, server)
    server.lie(lambda request, reply: replace(reply, body=reply.body + b" "), MANIFESTS, times=1)
    source = open_at(f"{server.host}/demo/py@{image.descriptor().digest}", options)
    with pytest.raises(DigestMismatch):
        source.resolve()
    assert source.resolve() == image.descriptor()
    source.close()


@case(3)
@pytest.mark.parametrize("lie", ["405", "no digest", "no length"])
def test_a_tag_costs_one_get_and_nobody_is_asked_with_head(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions, lie: str
) -> None:
    def head_is_useless(request: Request, reply: Reply) -> Reply:
        if request.method == "HEAD":
            return Reply(405)
        kept = tuple(pair for pair in reply.headers if pair[0] != "Docker-Content-Digest")
        return replace(reply, headers=kept, chunked=lie == "no length")

    reference = store(image, server)
    server.lie(head_is_useless, MANIFESTS)
    source = open_at(reference, options)
    for _ in range(2):
        assert source.resolve() == image.descriptor()
        source.manifest(image.descriptor())
    assert [one.method for one in server.requests] == ["GET", "GET"]
    source.close()


@case(24)
def test_a_url_that_is_good_for_get_only_is_never_asked_with_head(
    server: ScriptedRegistry, storage: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    layer = image.layers[0]
    storage.files["/data"] = image.contents[layer.digest]
    reference = store(image, server)
    server.lie(
        lambda request, reply: (
            Reply(307, (("Location", f"{storage.url}/data?sig=x"),)) if request.method == "GET" else reply
        ),
        "(GET|HEAD) /v2/.*/blobs/",
    )
    source = open_at(reference, options)
    destination = RegistryDestination(parse_reference(reference), options)
    assert destination.has_blob(layer)
    assert b"".join(source.read_at(layer, 5, 50)) == image.contents[layer.digest][5:55]
    assert b"".join(source.read_blob(layer)) == image.contents[layer.digest]
    assert {one.method for one in storage.requests} == {"GET"}
    source.close()
    destination.close()


@case(20)
def test_sixty_four_readers_with_a_dead_account_do_not_read_the_file_sixty_four_times(
    server: ScriptedRegistry,
    image: SampleImage,
    options: RegistryOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups: list[str] = []

    def counted(path: Path) -> AuthFile | None:
        if path.exists():
            lookups.append(str(path))
        return load_auth_file(path)

    monkeypatch.setattr(credentials, "load_auth_file", counted)
    config = tmp_path / "home" / ".docker" / "config.json"
    config.parent.mkdir()

    def log_in(password: str) -> None:
        entry = {"username": "alice", "password": password}
        config.write_text(json.dumps({"auths": {server.host: entry}}))

    log_in("old")
    reference = store(image, server)
    server.require_account("alice", "new")
    source = open_at(reference, options)

    def read(number: int) -> bool:
        try:
            list(source.read_at(image.layers[0], number, 10))
        except Unauthorized:
            return False
        return True

    with ThreadPoolExecutor(64) as threads:
        assert not any(threads.map(read, range(64)))
        assert len(lookups) <= 3
        log_in("new")
        assert all(threads.map(read, range(64)))
    assert len(lookups) <= 6
    source.close()


@case(32)
def test_overlapping_reads_of_many_threads_are_each_right_and_a_failure_is_its_own(
    server: ScriptedRegistry, options: RegistryOptions
) -> None:
    image = sample_image(*(noise(60_000, number) for number in range(20)))
    reference = store(image, server)
    source = open_at(reference, options)
    refused = threading.Semaphore(5)

    def sometimes(request: Request, reply: Reply) -> Reply:
        return Reply(400) if refused.acquire(blocking=False) else reply

    server.lie(sometimes, BLOBS)

    def read(number: int) -> bool:
        chance = random.Random(number)
        layer = image.layers[chance.randrange(20)]
        offset = chance.randrange(30_000)
        try:
            found = b"".join(source.read_at(layer, offset, 30_000))
        except ResponseInvalid:
            return False
        assert found == image.contents[layer.digest][offset : offset + 30_000]
        return True

    with ThreadPoolExecutor(64) as threads:
        done = Counter(threads.map(read, range(300)))
    assert done == {True: 295, False: 5}
    assert server.connections <= options.connections
    source.close()


@case(39)
@pytest.mark.parametrize("change", [-1, 1, 10**12])
def test_a_blob_of_another_size_than_its_descriptor_says_is_refused(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions, change: int
) -> None:
    source = open_at(store(image, server), options)
    layer = image.layers[0]
    lying = replace(layer, size=layer.size + change)
    with pytest.raises(DigestMismatch):
        list(source.read_at(lying, 0, 100))
    with pytest.raises(RegistryError):
        for _ in source.read_blob(lying):
            pass
    source.close()


@case(39)
def test_a_manifest_that_never_ends_takes_no_memory(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    reference = store(image, server)
    huge = bytes(64 * 1024 * 1024)
    server.lie(lambda request, reply: replace(reply, body=huge), MANIFESTS)
    source = open_at(reference, options)
    tracemalloc.start()
    with pytest.raises(Unreachable, match="more than 8388608 bytes"):
        source.resolve()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 1024 * 1024
    source.close()


def manifest_with(**fields: object) -> bytes:
    config = Descriptor(MediaType.OCI_CONFIG, digest_of(b"{}"), 2).to_json()
    document = {"schemaVersion": 2, "mediaType": MediaType.OCI_MANIFEST, "config": config, "layers": []}
    return json.dumps({**document, **fields}).encode()


@case(39, on=Server.NONE)
@pytest.mark.parametrize(
    "raw",
    [
        manifest_with(manifests=[]),
        manifest_with(mediaType=MediaType.OCI_INDEX),
        manifest_with(fsLayers=[]),
        manifest_with(layers=[{"mediaType": "x/y", "digest": "sha256:../../../etc/passwd", "size": 1}]),
        manifest_with(layers=[{"mediaType": "x/y", "digest": digest_of(b"{}"), "size": 2, "data": "AAAA"}]),
        manifest_with(layers=[{"mediaType": "x/y", "digest": digest_of(b"{}"), "size": 3, "data": "e30="}]),
        manifest_with(layers=[{"mediaType": "x/y", "digest": digest_of(b"{}"), "size": 2, "data": "?"}]),
        manifest_with(layers=[{"mediaType": "x/y", "digest": digest_of(b"{}"), "size": -1}]),
    ],
)
def test_a_document_that_lies_is_refused_before_anything_is_done_with_it(raw: bytes) -> None:
    with pytest.raises((ManifestInvalid, ReferenceInvalid, MediaTypeUnknown)):
        parse_manifest(raw, MediaType.OCI_MANIFEST, digest_of(raw))


@case(39, on=Server.NONE)
def test_data_that_is_right_is_accepted() -> None:
    entry = {"mediaType": "x/y", "digest": digest_of(b"{}"), "size": 2, "data": "e30="}
    raw = manifest_with(layers=[entry])
    found = parse_manifest(raw, MediaType.OCI_MANIFEST, digest_of(raw))
    assert isinstance(found, Manifest)
    assert not isinstance(found, Index)


@case(39, on=Server.NONE)
@pytest.mark.parametrize(
    "name", ["host.example/Upper:v1", "host.example/a@sha256:../x", "host.example/a:../b"]
)
def test_a_name_that_lies_is_refused(name: str) -> None:
    with pytest.raises(ReferenceInvalid):
        parse_reference(name)


def footprint() -> tuple[int, int]:
    """Open file descriptors and threads of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 - names only


def settled(wanted: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not wanted() and time.monotonic() < end:
        time.sleep(0.02)
    return wanted()


@pytest.fixture
def reads() -> int:
    """How many: a few thousand, or $NOPULL_MONTHS of them."""
    return int(os.environ.get("NOPULL_MONTHS", "2000"))


@case(40)
def test_months_of_reads_leave_nothing_behind(
    server: ScriptedRegistry, storage: ScriptedRegistry, options: RegistryOptions, reads: int
) -> None:
    """Tokens and URLs expire at random, connections drop, threads come and go."""
    image = sample_image(*(noise(20_000, number) for number in range(4)))
    reference = store(image, server)
    server.require_token(expires_in=300)
    chance = random.Random(7)

    def redirect(request: Request, reply: Reply) -> Reply:
        if reply.status == 401:
            return reply
        path = f"/data/{request.path.rpartition('/')[2]}/{chance.randrange(10**9)}"
        storage.files.clear()  # the old URLs have expired
        storage.files[path] = image.contents[request.path.rpartition("/")[2]]
        return Reply(307, (("Location", storage.url + path),))

    server.lie(redirect, BLOBS)
    before = footprint()
    source = open_at(reference, replace(options, connections=4))

    def read(number: int) -> None:
        one = random.Random(number)
        if one.random() < 0.02:
            server.revoke_tokens()
        if one.random() < 0.02:
            storage.files.clear()
        if one.random() < 0.01:
            storage.lie(lambda request, reply: Reply(silent=True), ".", times=1)
        layer = image.layers[one.randrange(4)]
        offset = one.randrange(19_000)
        try:
            found = b"".join(source.read_at(layer, offset, 1000))
        except (NotFound, Unauthorized):
            return  # two expiries within one read
        assert found == image.contents[layer.digest][offset : offset + 1000]

    def some(count: int, seed: int) -> None:
        with ThreadPoolExecutor(1 + seed % 5) as threads:
            list(threads.map(read, range(seed, seed + count)))
        server.requests.clear()
        storage.requests.clear()

    for part in range(10):
        some(reads // 10, 1000 * (part + 1) + part)
    after = footprint()
    # Four connections to each of the two hosts, whose other ends, threads and all, are in this process.
    assert after[0] <= before[0] + 2 * 8
    assert after[1] <= before[1] + 8
    source.close()


@case(40)
def test_two_hundred_sources_added_and_removed_leave_nothing_behind(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    reference = store(image, server)

    def use() -> None:
        source = open_at(reference, options)
        source.manifest(source.resolve())
        list(source.read_at(image.layers[0], 0, 1000))
        source.close()

    use()
    before = footprint()
    tracemalloc.start()
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        use()
        server.requests.clear()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    # The server's own threads take a moment to notice.
    assert settled(lambda: footprint()[0] <= before[0] + 2)
    assert settled(lambda: footprint()[1] <= before[1] + 2)
    assert grown < 2_000_000


@pytest.fixture
def debian() -> Iterator[DebianRegistry]:
    with DebianRegistry() as started:
        yield started


@pytest.mark.system
@case(40, 33, on=Server.DEBIAN)
def test_a_registry_that_restarts_again_and_again_is_read_again_and_again(
    debian: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{debian.host}/demo/py:v1", options)
    debian.stop()
    source = open_at(f"{debian.host}/demo/py:v1", replace(options, timeout=0.5))
    layer = image.layers[0]
    for _ in range(3):
        with pytest.raises(Unreachable):
            list(source.read_at(layer, 0, 1000))
        debian.start()
        assert b"".join(source.read_at(layer, 0, 1000)) == image.contents[layer.digest][:1000]
        debian.stop()
    debian.start()
    patient = open_at(f"{debian.host}/demo/py:v1", replace(options, timeout=20))
    debian.stop()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lambda: b"".join(patient.read_at(layer, 5, 1000)))
        time.sleep(0.3)
        debian.start()
        assert waiting.result() == image.contents[layer.digest][5:1005], "it waited within its deadline"
    source.close()
    patient.close()
