"""Publishing to a registry that is slow, forgetful, elsewhere, or wrong."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from registry_client import open_destination
from registry_client.errors import DigestMismatch, ResponseInvalid, Unauthorized, Unreachable
from registry_client.manifest import MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_destination import RegistryDestination
from tests.registry_client.cases import case
from tests.registry_client.sample import SampleImage, describe, noise, opener
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry

CONTENT = noise(1_500_000, 4)
BLOB = describe(CONTENT, MediaType.OCI_LAYER)


@case(9)
def test_a_blob_takes_three_requests_and_one_that_is_there_takes_one(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    destination.put_blob(BLOB, opener(CONTENT))
    assert [one.method for one in server.requests] == ["HEAD", "POST", "PUT"]
    assert server.blobs[BLOB.digest] == CONTENT
    destination.put_blob(BLOB, opener(CONTENT))
    assert [one.method for one in server.requests[3:]] == ["HEAD"]


@case(5)
def test_the_digest_is_added_to_a_location_that_stays_as_it_was(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.requests[-1].target == f"/v2/demo/py/blobs/uploads/1?_state=a%2Fb%3D&digest={BLOB.digest}"
    assert server.requests[-1].headers["content-length"] == str(BLOB.size)
    assert server.requests[-1].headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("{url}/v2/demo/py/blobs/uploads/7", "/v2/demo/py/blobs/uploads/7?digest="),
        ("/v2/demo/py/blobs/uploads/7?a=b~c+d", "/v2/demo/py/blobs/uploads/7?a=b~c+d&digest="),
        ("7?x=%3D", "/v2/demo/py/blobs/uploads/7?x=%3D&digest="),
    ],
)
@case(5)
def test_locations_may_be_absolute_or_relative(
    server: ScriptedRegistry, destination: RegistryDestination, location: str, target: str
) -> None:
    place = location.format(url=server.url)
    server.lie(lambda request, reply: reply.having(Location=place), "POST ")
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.requests[-1].target == target + BLOB.digest


def test_an_upload_that_goes_to_another_host_takes_no_credentials_along(
    server: ScriptedRegistry, storage: ScriptedRegistry, options: RegistryOptions
) -> None:
    server.require_account("alice", "planted")
    opened = open_destination(
        parse_reference(f"{server.host}/demo/py:v1"), replace(options, creds="alice:planted")
    )
    server.lie(
        lambda request, reply: reply.having(Location=f"{storage.url}/v2/demo/py/blobs/uploads/9"), "POST "
    )
    opened.put_blob(BLOB, opener(CONTENT))
    assert "authorization" in server.seen("POST ")[-1].headers
    assert "authorization" not in storage.requests[0].headers
    assert storage.blobs[BLOB.digest] == CONTENT
    opened.close()


def test_the_token_asked_for_allows_pushing(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.require_token()
    destination.put_blob(BLOB, opener(CONTENT))
    assert [one.query["scope"] for one in server.seen("/token")] == [["repository:demo/py:pull,push"]]


def test_a_token_that_expires_between_start_and_content_costs_a_new_attempt(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.require_token()

    def revoke(request: Request, reply: Reply) -> Reply:
        server.revoke_tokens()
        return reply

    server.lie(revoke, "POST /v2/", times=1)
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.blobs[BLOB.digest] == CONTENT


@pytest.mark.parametrize(
    "lie",
    [
        lambda request, reply: Reply(503),
        lambda request, reply: Reply(429, (("Retry-After", "0"),)),
        lambda request, reply: Reply(silent=True),
        lambda request, reply: replace(reply, cut=0, reset=True, status=500),
    ],
)
@pytest.mark.parametrize("step", ["POST ", "PUT "])
def test_a_passing_failure_costs_an_attempt_with_the_content_opened_anew(
    server: ScriptedRegistry, destination: RegistryDestination, step: str, lie: object
) -> None:
    server.lie(lie, f"{step}.*/blobs/", times=2)  # type: ignore[arg-type]
    opened = []

    def open_blob() -> io.BytesIO:
        opened.append(io.BytesIO(CONTENT))
        return opened[-1]

    destination.put_blob(BLOB, open_blob)
    assert server.blobs[BLOB.digest] == CONTENT
    assert len(opened) == (3 if step == "PUT " else 1)
    assert all(one.closed for one in opened)


def test_a_registry_that_received_other_bytes_is_believed(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    body = b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}'
    server.lie(lambda request, reply: Reply(400, body=body), "PUT ")
    with pytest.raises(DigestMismatch, match="received other bytes"):
        destination.put_blob(BLOB, opener(CONTENT))


def test_content_that_changed_on_disk_is_not_published(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    with pytest.raises(DigestMismatch):
        destination.put_blob(BLOB, opener(CONTENT[:-1] + b"!"))
    assert not server.blobs


@case(9)
def test_an_existing_blob_of_another_length_is_sent_again(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.lie(lambda request, reply: Reply(200, (("Content-Length", "17"),)), "HEAD ")
    assert not destination.has_blob(BLOB)
    destination.put_blob(BLOB, opener(CONTENT))
    assert server.blobs[BLOB.digest] == CONTENT


def test_an_existing_blob_that_lies_elsewhere_is_there(
    server: ScriptedRegistry, storage: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.lie(lambda request, reply: Reply(307, (("Location", f"{storage.url}/only-for-get"),)), "HEAD ")
    assert destination.has_blob(BLOB)
    assert not storage.requests


def test_a_manifest_arrives_with_its_exact_bytes(
    server: ScriptedRegistry, destination: RegistryDestination, image: SampleImage
) -> None:
    odd = image.manifest.replace(b'"layers"', b'  \n "layers"')
    stored = destination.put_manifest(odd, image.media_type, tag="v1")
    assert server.manifests["demo/py:v1"] == (odd, image.media_type)
    assert stored == describe(odd, image.media_type)
    destination.put_manifest(odd, image.media_type, tag=None)
    assert server.requests[-1].path == f"/v2/demo/py/manifests/{stored.digest}"


def test_a_registry_that_stores_another_manifest_is_found_out(
    server: ScriptedRegistry, destination: RegistryDestination, image: SampleImage
) -> None:
    server.lie(lambda request, reply: reply.having(Docker_Content_Digest="sha256:" + "0" * 64), "PUT ")
    with pytest.raises(DigestMismatch, match="and stored sha256:0000"):
        destination.put_manifest(image.manifest, image.media_type, tag="v1")


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (
            403,
            b'{"errors":[{"code":"DENIED","message":"no push for you"}]}',
            Unauthorized,
            "DENIED: no push for you",
        ),
        (
            405,
            b'{"errors":[{"code":"UNSUPPORTED"}]}',
            ResponseInvalid,
            "answered 405 .UNSUPPORTED. when asked",
        ),
        (413, b"<html>too large</html>", ResponseInvalid, "answered 413 when"),
        (507, b"", Unreachable, "507; try again later"),
    ],
)
def test_a_refusal_says_what_and_why(
    server: ScriptedRegistry,
    destination: RegistryDestination,
    image: SampleImage,
    status: int,
    body: bytes,
    error: type[Exception],
    words: str,
) -> None:
    server.lie(lambda request, reply: Reply(status, body=body), "PUT ")
    with pytest.raises(error, match=words) as caught:
        destination.put_manifest(image.manifest, image.media_type, tag="v1")
    assert "store manifest demo/py:v1" in str(caught.value)


def test_an_upload_without_a_place_to_go_is_refused(
    server: ScriptedRegistry, destination: RegistryDestination
) -> None:
    server.lie(lambda request, reply: Reply(202), "POST ")
    with pytest.raises(ResponseInvalid, match="without saying where to"):
        destination.put_blob(BLOB, opener(CONTENT))


def test_a_digest_or_a_local_archive_of_docker_cannot_be_written_to(options: RegistryOptions) -> None:
    for name, words in (
        (f"host.example/a@sha256:{'0' * 64}", "name a tag instead"),
        ("docker-archive:/x.tar", "write to oci-archive: instead"),
        ("rafs:/x", "bare bootstrap"),
    ):
        with pytest.raises(Exception, match=words) as caught:
            open_destination(parse_reference(name), options)
        assert type(caught.value).__name__ == "ReferenceInvalid"
