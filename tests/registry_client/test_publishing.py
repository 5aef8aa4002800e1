"""Uploads that resume, blobs that are mounted, referrers nobody loses, lists in pages."""

from __future__ import annotations

import contextlib
import io
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_destination, open_source
from registry_client.digest import digest_of
from registry_client.errors import DigestMismatch, ManifestInvalid, ResponseInvalid, Unauthorized
from registry_client.manifest import Descriptor, MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries import blob_upload, referrers
from registry_client.registries.listing import fallback_tag
from registry_client.registries.registry_destination import RegistryDestination
from registry_client.registries.registry_source import RegistrySource
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import SampleImage, describe, index_of, noise, opener, publish, sample_image
from tests.support.debian_registry import DebianRegistry
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

CONTENT = noise(300_000, 4)
BLOB = describe(CONTENT, MediaType.OCI_LAYER)
SMALL = b'{"small": true}'
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
SMALL_BLOB = describe(SMALL, MediaType.OCI_CONFIG)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 100,000 bytes for what has 200,000."""
    monkeypatch.setattr(blob_upload, "CHUNKED_FROM", 200_000)
    monkeypatch.setattr(blob_upload, "CHUNK", 100_000)


@pytest.fixture
def debian() -> Iterator[DebianRegistry]:
    with DebianRegistry() as started:
        yield started


def source_at(host: str, options: RegistryOptions, tag: str = "v1") -> RegistrySource:
    opened = open_source(parse_reference(f"{host}/demo/py:{tag}"), options)
    assert isinstance(opened, RegistrySource)
    return opened


def sent(server: ScriptedRegistry) -> list[str]:
    return [one.method for one in server.requests]


@case(6)
def test_a_small_blob_goes_along_with_the_first_request(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.lie(lambda request, reply: Reply(201), "POST .*", times=1)
    destination.put_blob(SMALL_BLOB, opener(SMALL))
    assert sent(server) == ["HEAD", "POST"]
    assert server.requests[1].query["digest"] == [SMALL_BLOB.digest]
    assert server.requests[1].body == SMALL


@case(6)
def test_a_registry_that_answers_202_to_that_gets_a_put_and_is_remembered(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    destination.put_blob(SMALL_BLOB, opener(SMALL))
    destination.put_blob(describe(b"other", MediaType.OCI_CONFIG), opener(b"other"))
    assert sent(server) == ["HEAD", "POST", "PUT"] * 2
    assert "digest" not in server.requests[4].query
    assert set(server.blobs.values()) == {SMALL, b"other"}


@case(6)
def test_a_registry_that_refuses_that_gets_the_usual_two_requests(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.lie(lambda request, reply: Reply(405), "POST ", times=1)
    destination.put_blob(SMALL_BLOB, opener(SMALL))
    assert sent(server) == ["HEAD", "POST", "POST", "PUT"]


@pytest.mark.system
@case(6, 8, on=Server.DEBIAN)
def test_debians_registry_takes_small_blobs_and_mounts(
    debian: DebianRegistry, options: RegistryOptions
) -> None:
    first = open_destination(parse_reference(f"{debian.host}/one:v1"), options)
    first.put_blob(SMALL_BLOB, opener(SMALL))
    second = open_destination(parse_reference(f"{debian.host}/two:v1"), options)
    assert isinstance(second, RegistryDestination)
    assert second.mount_blob(SMALL_BLOB, "one")
    assert second.has_blob(SMALL_BLOB)
    assert not second.mount_blob(BLOB, "one")
    second.put_blob(BLOB, opener(CONTENT))
    assert second.has_blob(BLOB)
    first.close()
    second.close()
    assert len([one for one in debian.accesses() if one.method == "POST"]) == 3, "no second session"


@case(7)
@pytest.mark.usefixtures("chunks")
def test_a_large_blob_goes_up_in_chunks(server: ScriptedRegistry, destination: RegistryDestination) -> None:
    destination.put_blob(BLOB, opener(CONTENT))
    patches = server.seen("PATCH ")
    assert [one.headers["content-range"] for one in patches] == ["0-99999", "100000-199999", "200000-299999"]
    assert [one.query["_state"] for one in patches] == [["a/b="], ["100000"], ["200000"]], (
        "the newest Location"
    )
    assert server.seen("PUT ")[0].query["_state"] == ["300000"]
    assert (server.blobs[BLOB.digest], server.uploads) == (CONTENT, {})


@case(7)
@pytest.mark.usefixtures("chunks")
def test_chunks_are_as_large_as_the_registry_wants_them(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.lie(lambda request, reply: reply.having(OCI_Chunk_Min_Length="160000"), "POST ")
    destination.put_blob(BLOB, opener(CONTENT))
    ranges = [one.headers["content-range"] for one in server.seen("PATCH ")]
    assert ranges == ["0-159999", "160000-299999"]


@case(7)
@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("how", ["cut after it was kept", "416", "500", "kept in part"])
def test_a_broken_chunked_upload_goes_on_where_the_registry_says(
    server: ScriptedRegistry, destination: RegistryDestination, how: str
) -> None:
    def lie(request: Request, reply: Reply) -> Reply:
        (session,) = server.uploads
        if how == "cut after it was kept":
            return Reply(silent=True)
        if how == "kept in part":
            server.uploads[session] = server.uploads[session][:-40_000]
            return reply.having(Range=f"0-{len(server.uploads[session]) - 1}")
        server.uploads[session] = server.uploads[session][:-100_000]
        return Reply(int(how), (("Range", "0-17"),))

    server.lie(lambda request, reply: reply, "PATCH ", times=1)
    server.lie(lie, "PATCH ", times=1)
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.blobs[BLOB.digest] == CONTENT
    assert len(server.seen("POST ")) == 1
    assert len(server.seen("GET .*/uploads/")) == 1
    assert sum(len(one.body) for one in server.seen("PATCH ")) <= 400_000


@case(7)
@pytest.mark.usefixtures("chunks")
def test_an_upload_the_registry_forgot_starts_over(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    def forget(request: Request, reply: Reply) -> Reply:
        server.uploads.clear()
        return Reply(404)

    server.lie(lambda request, reply: reply, "PATCH ", times=1)
    server.lie(forget, "PATCH ", times=1)
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.blobs[BLOB.digest] == CONTENT
    assert len(server.seen("POST ")) == 2


@case(7)
@pytest.mark.usefixtures("chunks")
def test_a_registry_without_chunks_gets_the_blob_in_one_piece(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.lie(lambda request, reply: Reply(405), "PATCH ")
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.blobs[BLOB.digest] == CONTENT


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("size", [len(CONTENT), 150_000])
def test_an_upload_that_is_given_up_leaves_no_session(
    server: ScriptedRegistry, destination: RegistryDestination, size: int
) -> None:
    blob = describe(CONTENT[:size], MediaType.OCI_LAYER)
    with pytest.raises(DigestMismatch):
        destination.put_blob(blob, opener(CONTENT[: size - 1] + b"!"))
    server.lie(lambda request, reply: Reply(403), "(PUT|PATCH) ")
    with pytest.raises(Unauthorized):
        destination.put_blob(blob, opener(CONTENT[:size]))
    assert server.uploads == {}
    assert len(server.seen("DELETE ")) == 2


@pytest.mark.system
@case(7, on=Server.DEBIAN)
@pytest.mark.usefixtures("chunks")
def test_debians_registry_takes_chunks_and_forgets_what_is_given_up(
    debian: DebianRegistry, options: RegistryOptions
) -> None:
    opened = open_destination(parse_reference(f"{debian.host}/demo/py:v1"), options)
    opened.put_blob(BLOB, opener(CONTENT))
    assert [one.status for one in debian.accesses() if one.method == "PATCH"] == [202] * 3
    with pytest.raises(DigestMismatch):
        opened.put_blob(describe(noise(300_000, 5), MediaType.OCI_LAYER), opener(CONTENT))
    opened.close()
    assert [one.status for one in debian.accesses() if one.method == "DELETE"] == [204]
    source = source_at(debian.host, options)
    assert b"".join(source.read_blob(BLOB)) == CONTENT
    source.close()


@case(8)
@pytest.mark.parametrize("status", [201, 202, 400, 401, 403, 404, 405])
def test_a_mount_that_does_not_happen_becomes_an_upload_and_nothing_is_sent_twice(
    server: ScriptedRegistry, destination: RegistryDestination, status: int
) -> None:
    def answer(request: Request, reply: Reply) -> Reply:
        if status == 201:
            server.blobs[BLOB.digest] = CONTENT
        return reply if status == 202 else Reply(status)

    server.lie(answer, "POST ", times=1)
    mounted = destination.mount_blob(BLOB, "library/python")
    assert mounted == (status == 201)
    first = server.seen("POST ")[0]
    assert (first.query["mount"], first.query["from"]) == ([BLOB.digest], ["library/python"])
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.blobs[BLOB.digest] == CONTENT
    posts, puts = len(server.seen("POST ")), len(server.seen("PUT "))
    assert (posts, puts) == {201: (1, 0), 202: (1, 1)}.get(status, (2, 1))
    assert all("from" not in one.query for one in server.seen("POST ")[1:])


def test_a_session_opened_for_a_mount_and_not_used_is_given_up(
    server: ScriptedRegistry, options: RegistryOptions
) -> None:
    opened = open_destination(parse_reference(f"{server.host}/demo/py:v1"), options)
    assert isinstance(opened, RegistryDestination)
    assert not opened.mount_blob(BLOB, "elsewhere")
    assert server.uploads
    opened.close()
    assert not server.uploads


def statement(subject: Descriptor, number: int) -> bytes:
    """A manifest that refers to *subject*."""
    empty = describe(b"{}", OCI_EMPTY).to_json()
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MediaType.OCI_MANIFEST,
            "artifactType": f"application/example.{number % 2}",
            "config": empty,
            "layers": [empty],
            "subject": subject.to_json(),
            "annotations": {"number": str(number)},
        }
    ).encode()


@case(10)
def test_referrers_come_in_pages_and_are_filtered_by_whoever_can(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    subject = image.descriptor()
    entries = [
        Descriptor(
            MediaType.OCI_MANIFEST, digest_of(bytes([one])), 1, artifact_type=f"application/example.{one % 2}"
        )
        for one in range(6)
    ]

    filtering = threading.Event()

    def page(request: Request, reply: Reply) -> Reply:
        start = int(request.query.get("at", ["0"])[0])
        wanted = request.query.get("artifactType", [""])[0] if filtering.is_set() else ""
        shown = [one.to_json() for one in entries[start : start + 2] if wanted in ("", one.artifact_type)]
        headers = [("Content-Type", str(MediaType.OCI_INDEX))]
        if wanted:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        if start < 4:
            query = request.target.partition("?")[2].partition("at=")[0]
            headers.append(("Link", f'<?{query}{"&" if query else ""}at={start + 2}>; rel="next"'))
        return Reply(200, tuple(headers), index_of(*shown))

    server.lie(page, "GET /v2/demo/py/referrers/")
    source = source_at(server.host, options)
    assert source.referrers(subject.digest) == entries
    assert source.referrers(subject.digest, "application/example.1") == entries[1::2]
    filtering.set()
    assert source.referrers(subject.digest, "application/example.1") == entries[1::2]
    source.close()


@case(10)
@pytest.mark.parametrize(
    "answer",
    [
        Reply(404),
        Reply(400),
        Reply(406),
        Reply(200, (("Content-Type", "text/html"),), b"<html>welcome</html>"),
    ],
)
def test_a_registry_that_knows_no_referrers_is_read_through_the_tag(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions, answer: Reply
) -> None:
    subject = image.descriptor()
    server.lie(lambda request, reply: answer, "GET /v2/demo/py/referrers/")
    source = source_at(server.host, options)
    assert source.referrers(subject.digest) == []
    entry = describe(b"{}", MediaType.OCI_MANIFEST)
    tag = fallback_tag(subject.digest)
    assert tag == subject.digest.replace(":", "-")
    server.add_manifest("demo/py", tag, index_of(entry.to_json()), MediaType.OCI_INDEX)
    assert source.referrers(subject.digest) == [entry]
    server.add_manifest("demo/py", tag, index_of({"digest": "../../etc"}), MediaType.OCI_INDEX)
    with pytest.raises(ManifestInvalid):
        source.referrers(subject.digest)
    source.close()


@case(10)
def test_a_registry_that_keeps_referrers_itself_is_not_helped(
    server: ScriptedRegistry, destination: RegistryDestination, image: SampleImage
) -> None:
    server.lie(lambda request, reply: reply.having(OCI_Subject=image.descriptor().digest), "PUT ")
    destination.put_manifest(statement(image.descriptor(), 1), MediaType.OCI_MANIFEST, tag=None)
    assert sent(server) == ["PUT"]


@case(10)
def test_concurrent_writers_on_machines_of_their_own_lose_no_referrer(
    server: ScriptedRegistry, image: SampleImage, options: RegistryOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every writer reads, then takes its time, then writes over what the others wrote meanwhile."""
    monkeypatch.setattr(referrers, "_turn", lambda endpoint, subject: contextlib.nullcontext())
    tag = fallback_tag(image.descriptor().digest)
    chance = random.Random(5)

    def slow(request: Request, reply: Reply) -> Reply:
        time.sleep(chance.uniform(0, 0.1))
        return reply

    server.lie(slow, f"GET .*/manifests/{tag}")
    together = threading.Barrier(6)

    def write(number: int) -> None:
        opened = open_destination(parse_reference(f"{server.host}/demo/py:v1"), options)
        together.wait(10)
        for again in range(2):
            opened.put_manifest(
                statement(image.descriptor(), number), MediaType.OCI_MANIFEST, tag=f"again{again}"
            )
        opened.close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(6)))
    entries = json.loads(server.manifests[f"demo/py:{tag}"][0])["manifests"]
    assert sorted(int(entry["annotations"]["number"]) for entry in entries) == list(range(6))


@pytest.mark.system
@case(10, 12, on=Server.DEBIAN)
def test_debians_registry_gets_its_fallback_index_and_keeps_artifacts(
    debian: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    publish(image, f"{debian.host}/demo/py:v1", options)
    opened = open_destination(parse_reference(f"{debian.host}/demo/py:v1"), options)
    opened.put_blob(describe(b"{}", OCI_EMPTY), opener(b"{}"))

    def write(number: int) -> Descriptor:
        return opened.put_manifest(statement(image.descriptor(), number), MediaType.OCI_MANIFEST, tag=None)

    with ThreadPoolExecutor(3) as threads:
        stored = list(threads.map(write, [1, 2, 3]))
    source = source_at(debian.host, options)
    found = source.referrers(image.descriptor().digest)
    assert {one.digest for one in found} == {one.digest for one in stored}
    assert {one.artifact_type for one in found} == {"application/example.0", "application/example.1"}
    (even,) = source.referrers(image.descriptor().digest, "application/example.0")
    assert source.manifest(even).raw == statement(image.descriptor(), 2)
    source.close()
    opened.close()


def pages(server: ScriptedRegistry, links: list[str]) -> None:
    def page(request: Request, reply: Reply) -> Reply:
        number = int(request.query.get("page", ["0"])[0])
        headers = (("Link", links[number]),) if number < len(links) else ()
        return Reply(200, headers, json.dumps({"name": "demo/py", "tags": [f"t{number}", "same"]}).encode())

    server.lie(page, "GET /v2/demo/py/tags/list")


@case(11)
def test_tags_are_complete_over_pages_with_relative_links(
    server: ScriptedRegistry, options: RegistryOptions
) -> None:
    pages(server, ['</v2/demo/py/tags/list?page=1>; rel="next"', "<?page=2>; foo=bar; rel=next"])
    source = source_at(server.host, options)
    server.require_account("alice", "planted")
    source.close()
    source = source_at(server.host, replace(options, creds="alice:planted"))
    assert source.tags() == ["t0", "same", "t1", "t2"]
    source.close()


@case(11)
@pytest.mark.parametrize("tags", [5, "text", {"a": 1}, None, [5, None]])
def test_tags_that_are_no_list_of_text_are_none(
    server: ScriptedRegistry, options: RegistryOptions, tags: object
) -> None:
    body = json.dumps({"name": "demo/py", "tags": tags}).encode()
    server.lie(lambda request, reply: Reply(200, (), body), "GET /v2/demo/py/tags/list")
    source = source_at(server.host, options)
    assert source.tags() == []
    source.close()


@case(11)
def test_a_list_that_never_ends_or_leads_away_is_stopped(
    server: ScriptedRegistry, storage: ScriptedRegistry, options: RegistryOptions
) -> None:
    source = source_at(server.host, options)
    pages(server, ['</v2/demo/py/tags/list>; rel="next"'])
    with pytest.raises(ResponseInvalid, match="never end"):
        source.tags()
    server.honest()
    pages(server, [f'<{storage.url}/v2/demo/py/tags/list>; rel="next"'])
    with pytest.raises(ResponseInvalid, match="which is refused"):
        source.tags()
    assert not storage.requests
    source.close()


@pytest.mark.system
@case(11, on=Server.DEBIAN)
def test_debians_registry_lists_its_tags(
    debian: DebianRegistry, image: SampleImage, options: RegistryOptions
) -> None:
    source = source_at(debian.host, options)
    assert source.tags() == []
    for tag in ("b", "a"):
        publish(image, f"{debian.host}/demo/py:{tag}", options)
    assert sorted(source.tags()) == ["a", "b"]
    source.close()


@pytest.mark.system
@case(12, on=Server.DEBIAN)
def test_kinds_of_content_survive_byte_for_byte(
    debian: DebianRegistry, options: RegistryOptions, tmp_path: Path
) -> None:
    """From the registry to a layout and back into another repository, as a copying tool does it."""
    layers = [noise(1000, one) for one in range(4)]
    kinds = [
        MediaType.OCI_LAYER_ZSTD,
        MediaType.DOCKER_LAYER_GZIP,
        MediaType.NYDUS_BLOB,
        "application/vnd.example.unknown",
    ]
    plain = sample_image(*layers)
    document = json.loads(plain.manifest)
    for layer, kind in zip(document["layers"], kinds, strict=True):
        layer["mediaType"] = kind
    odd = replace(plain, manifest=json.dumps(document, indent=3).encode() + b"\n")
    docker = sample_image(*layers, media_type=MediaType.DOCKER_MANIFEST)
    listed = index_of(docker.descriptor().to_json(), media_type=MediaType.DOCKER_LIST)
    for one in (odd, docker):
        publish(one, f"{debian.host}/demo/py:v1", options)
    first = open_destination(parse_reference(f"{debian.host}/demo/py:list"), options)
    first.put_manifest(listed, MediaType.DOCKER_LIST, tag="list")
    first.close()
    publish(odd, f"{debian.host}/demo/py:v1", options)
    for tag, raw, kind in (("v1", odd.manifest, odd.media_type), ("list", listed, MediaType.DOCKER_LIST)):
        source = source_at(debian.host, options, tag)
        found = source.manifest(source.resolve())
        assert (found.raw, found.media_type) == (raw, kind)
        source.close()


def test_the_content_is_closed_whatever_happens(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    opened: list[io.BytesIO] = []

    def open_blob() -> io.BytesIO:
        opened.append(io.BytesIO(SMALL))
        return opened[-1]

    open_it: Callable[[], io.BytesIO] = open_blob
    destination.put_blob(SMALL_BLOB, open_it)
    assert len(opened) == 1
    assert opened[0].closed
