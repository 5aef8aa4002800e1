"""Digests, manifests, indexes and platforms: what is accepted, what is refused, and why."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from registry_client.digest import VerifyingReader, digest_of, parse_digest, verify_stream
from registry_client.errors import (
    DigestMismatch,
    ManifestInvalid,
    MediaTypeUnknown,
    NotFound,
    ReferenceInvalid,
)
from registry_client.manifest import (
    Descriptor,
    Index,
    Manifest,
    MediaType,
    media_type_of,
    parse_descriptor,
    parse_manifest,
)
from registry_client.platform import Platform, host_platform, normalise, parse_platform, select, serves
from tests.registry_client.cases import Server, case

DIGEST = digest_of(b"")
ENTRY: dict[str, Any] = {"mediaType": MediaType.OCI_MANIFEST, "digest": DIGEST, "size": 5}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": ENTRY, "layers": [ENTRY]}


def parse(document: Any, media_type: str = MediaType.OCI_MANIFEST) -> Manifest | Index:
    raw = json.dumps(document).encode()
    return parse_manifest(raw, media_type, digest_of(raw))


def entry(platform: str | None, **changes: Any) -> Descriptor:
    shown = dict(ENTRY, digest=digest_of(repr((platform, changes)).encode()), **changes)
    if platform is not None:
        system, architecture, variant, *_ = (*platform.split("/"), "")
        shown["platform"] = {"os": system, "architecture": architecture, "variant": variant}
    return parse_descriptor(shown)


def test_digests_are_of_one_form() -> None:
    assert parse_digest(DIGEST) == DIGEST
    assert parse_digest("sha512:" + "0" * 128)
    for text in (
        "",
        "sha256:",
        DIGEST.upper(),
        DIGEST + "0",
        "sha256:../../etc",
        "md5:" + "0" * 32,
        DIGEST + "\n",
    ):
        with pytest.raises(ReferenceInvalid, match="not a digest"):
            parse_digest(text)


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([b"ab", b"cd", b"e"], None),
        ([b"abcde", b"f"], "goes on after the 5 bytes"),
        ([b"abcd"], "ends after 4 of the 5 bytes"),
        ([b"abcdX"], "has digest sha256:.* instead of"),
        ([], "ends after 0 of the 5"),
    ],
)
def test_a_stream_is_checked_while_it_is_read(chunks: list[bytes], words: str | None) -> None:
    digest = digest_of(b"abcde")
    reader = VerifyingReader(io.BytesIO(b"".join(chunks)), digest, 5)
    if words is None:
        assert b"".join(verify_stream(chunks, digest, 5)) == reader.read() == b"abcde"
        assert reader.read(10) == b""
        return
    with pytest.raises(DigestMismatch, match=words):
        list(verify_stream(chunks, digest, 5))
    with pytest.raises(DigestMismatch, match=words):
        reader.read()


def test_a_stream_that_is_too_long_is_cut_at_once() -> None:
    seen: list[bytes] = []
    with pytest.raises(DigestMismatch):
        seen.extend(verify_stream([b"12345", b"6", b"7"], digest_of(b"12345"), 5))
    assert seen == [b"12345"]


def test_unknown_fields_layers_and_platforms_are_kept_quiet_about() -> None:
    layer = {**ENTRY, "mediaType": "application/x-unknown", "urls": ["https://x"], "annotations": {"a": "b"}}
    found = parse({**MANIFEST, "layers": [layer], "annotations": {"k": "v"}, "more": 1, "subject": ENTRY})
    assert isinstance(found, Manifest)
    assert found.layers[0].annotations == {"a": "b"}
    assert found.annotations == {"k": "v"}
    assert found.subject is not None and found.subject.digest == DIGEST
    index = parse({"schemaVersion": 2, "manifests": None}, MediaType.DOCKER_LIST)
    assert isinstance(index, Index) and index.manifests == ()


def test_a_descriptor_is_written_as_it_was_read() -> None:
    platform = {
        "architecture": "arm",
        "os": "windows",
        "os.version": "1",
        "os.features": ["x"],
        "variant": "v7",
    }
    document = {**ENTRY, "annotations": {"a": "b"}, "platform": platform, "artifactType": "t/x"}
    assert parse_descriptor(document).to_json() == document
    assert len({parse_descriptor(document), parse_descriptor(document)}) == 1


@pytest.mark.parametrize(
    ("document", "media_type", "error", "words"),
    [
        (MANIFEST, "application/vnd.docker.distribution.manifest.v1+json", MediaTypeUnknown, "only OCI"),
        ({**MANIFEST, "fsLayers": []}, MediaType.DOCKER_MANIFEST, MediaTypeUnknown, "schema 1"),
        ({**MANIFEST, "manifests": []}, MediaType.OCI_MANIFEST, ManifestInvalid, "has 'manifests'"),
        (
            {"schemaVersion": 2, "manifests": [], "layers": []},
            MediaType.OCI_INDEX,
            ManifestInvalid,
            "has 'layers'",
        ),
        (
            {**MANIFEST, "mediaType": MediaType.OCI_INDEX},
            MediaType.OCI_MANIFEST,
            ManifestInvalid,
            "calls itself",
        ),
        ({**MANIFEST, "schemaVersion": 1}, MediaType.OCI_MANIFEST, ManifestInvalid, "schemaVersion '1'"),
        ({**MANIFEST, "config": None}, MediaType.OCI_MANIFEST, ManifestInvalid, "descriptor is NoneType"),
        (
            {"schemaVersion": 2, "config": ENTRY},
            MediaType.OCI_MANIFEST,
            ManifestInvalid,
            "'layers' is missing",
        ),
        (
            {**MANIFEST, "layers": [{**ENTRY, "size": -1}]},
            MediaType.OCI_MANIFEST,
            ManifestInvalid,
            "size '-1'",
        ),
        (
            {**MANIFEST, "layers": [{**ENTRY, "size": 1 << 70}]},
            MediaType.OCI_MANIFEST,
            ManifestInvalid,
            "size",
        ),
        ({**MANIFEST, "layers": [{**ENTRY, "size": True}]}, MediaType.OCI_MANIFEST, ManifestInvalid, "size"),
        ({**MANIFEST, "layers": [{**ENTRY, "size": 1.5}]}, MediaType.OCI_MANIFEST, ManifestInvalid, "size"),
        (
            {**MANIFEST, "layers": [{**ENTRY, "digest": "sha256:../x"}]},
            MediaType.OCI_MANIFEST,
            ManifestInvalid,
            "digest",
        ),
        ({**MANIFEST, "layers": [{**ENTRY, "digest": 5}]}, MediaType.OCI_MANIFEST, ManifestInvalid, "digest"),
        ({**MANIFEST, "layers": {}}, MediaType.OCI_MANIFEST, ManifestInvalid, "not a list"),
        ({**MANIFEST, "annotations": {"a": 1}}, MediaType.OCI_MANIFEST, ManifestInvalid, "annotations"),
        ({**MANIFEST, "subject": 5}, MediaType.OCI_MANIFEST, ManifestInvalid, "descriptor is int"),
        ([], MediaType.OCI_MANIFEST, ManifestInvalid, "JSON list"),
    ],
)
@case(39, on=Server.NONE)
def test_a_broken_manifest_is_refused(
    document: Any, media_type: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        parse(document, media_type)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="is not JSON"):
        parse_manifest(raw, MediaType.OCI_MANIFEST, DIGEST)


def test_the_bytes_say_what_a_careless_server_does_not() -> None:
    raw = json.dumps({"mediaType": MediaType.OCI_INDEX}).encode()
    for stated in ("", "text/plain", "application/json; charset=utf-8", f"{MediaType.OCI_INDEX}; charset=x"):
        assert media_type_of(raw, stated, "it") == MediaType.OCI_INDEX
    assert media_type_of(b"{}", MediaType.OCI_MANIFEST, "it") == MediaType.OCI_MANIFEST
    with pytest.raises(ManifestInvalid, match="calls itself"):
        media_type_of(raw, MediaType.OCI_MANIFEST, "it")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/X86_64/v1", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
    ],
)
def test_platforms_have_one_spelling(text: str, shown: str) -> None:
    assert str(parse_platform(text)) == shown


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "foo", "linux"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ReferenceInvalid, match="not a platform"):
        parse_platform(text)


@pytest.mark.parametrize(
    ("made", "wanted", "fits"),
    [
        (Platform("linux", "amd64"), "linux/amd64", True),
        (Platform("linux", "amd64"), "linux/arm64", False),
        (Platform("windows", "amd64"), "linux/amd64", False),
        (Platform("linux", "arm64", "v8"), "linux/arm64", True),
        (Platform("linux", "arm"), "linux/arm/v6", True),
        (Platform("linux", "arm", "v6"), "linux/arm/v7", True),
        (Platform("linux", "arm", "v7"), "linux/arm/v6", False),
        (Platform("linux", "x86_64"), "linux/amd64/v3", True),
        (Platform("linux", "amd64", "v3"), "linux/amd64", False),
        (Platform("", "amd64"), "linux/amd64", True),
        (Platform("", ""), "linux/amd64", True),
    ],
)
def test_an_image_serves_the_platform_it_says_it_is_made_for(made: Platform, wanted: str, fits: bool) -> None:
    assert serves(made, parse_platform(wanted)) == fits


def test_this_machine_has_a_platform() -> None:
    assert host_platform() == normalise(host_platform())
    assert host_platform().os == "linux"


@case(1, on=Server.NONE)
def test_the_first_entry_that_fits_is_taken() -> None:
    attestation = entry("unknown/unknown", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    first, second = entry("linux/arm64/v8"), entry("linux/arm64")
    nameless, other = entry(None), entry("linux/s390x")
    foreign = entry("linux/arm64", mediaType="application/x-artifact")
    entries = [attestation, foreign, nameless, other, first, second]
    assert select(entries, Platform("linux", "arm64")) is first
    assert select(entries, Platform("linux", "amd64")) is nameless
    with pytest.raises(NotFound, match="linux/amd64; its index offers linux/s390x, linux/arm64"):
        select([attestation, foreign, other, second], Platform("linux", "amd64"))
    with pytest.raises(NotFound, match="no image at all"):
        select([attestation], Platform("unknown", "unknown"))


def test_an_older_variant_serves_a_newer_machine_but_not_the_reverse() -> None:
    old, new = entry("linux/arm/v6"), entry("linux/arm/v7")
    assert select([old, new], Platform("linux", "arm", "v7")) is new
    assert select([old], Platform("linux", "arm", "v7")) is old
    with pytest.raises(NotFound):
        select([new], Platform("linux", "arm", "v6"))
    plain, wide = entry("linux/amd64"), entry("linux/amd64/v3")
    assert select([wide, plain], Platform("linux", "amd64")) is plain
    assert select([plain, wide], Platform("linux", "amd64", "v3")) is wide
    assert select([plain], Platform("linux", "amd64", "v4")) is plain
