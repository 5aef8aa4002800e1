"""One suite for everything an image can come from and go to."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from registry_client import open_destination, open_source, warm
from registry_client.digest import digest_of
from registry_client.errors import DigestMismatch, MediaTypeUnknown, NotFound, RangeInvalid
from registry_client.manifest import Index, Manifest, MediaType
from registry_client.options import RegistryOptions
from registry_client.platform import parse_platform
from registry_client.reference import parse_reference
from registry_client.selection import find_manifest
from registry_client.source import ImageSource
from tests.registry_client.cases import Server, case
from tests.registry_client.sample import (
    SampleImage,
    describe,
    index_of,
    noise,
    opener,
    publish,
    sample_image,
)
from tests.support.debian_registry import DebianRegistry
from tests.support.scripted_registry import ScriptedRegistry

PLACES = [
    "oci",
    "oci-archive",
    "scripted",
    pytest.param("debian", marks=pytest.mark.system),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A reference to write to, without a tag."""
    if request.param == "oci":
        yield f"oci:{tmp_path}/layout"
    elif request.param == "oci-archive":
        yield f"oci-archive:{tmp_path}/image.tar"
    elif request.param == "scripted":
        with ScriptedRegistry() as server:
            yield f"docker://{server.host}/demo/py"
    else:
        with DebianRegistry() as registry:
            yield f"docker://{registry.host}/demo/py"


@pytest.fixture
def opened(place: str, image: SampleImage, options: RegistryOptions) -> Iterator[ImageSource]:
    publish(image, f"{place}:v1", options)
    source = open_source(parse_reference(f"{place}:v1"), options)
    yield source
    source.close()


def test_what_was_published_is_read_back_byte_for_byte(opened: ImageSource, image: SampleImage) -> None:
    descriptor = opened.resolve()
    assert (descriptor.media_type, descriptor.digest, descriptor.size) == (
        image.media_type,
        image.descriptor().digest,
        len(image.manifest),
    )
    manifest = opened.manifest(descriptor)
    assert isinstance(manifest, Manifest)
    assert manifest.raw == image.manifest
    for blob in (manifest.config, *manifest.layers):
        assert b"".join(opened.read_blob(blob)) == image.contents[blob.digest]


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (1, 700_000), (0, 700_001), (699_999, 2), (300_000, 262_145)]
)
def test_a_range_has_exactly_the_bytes_asked_for(
    opened: ImageSource, image: SampleImage, offset: int, size: int
) -> None:
    pieces = list(opened.read_at(image.layers[0], offset, size))
    assert b"".join(pieces) == image.contents[image.layers[0].digest][offset : offset + size]
    assert all(0 < len(piece) <= 256 * 1024 for piece in pieces)


@case(30, on=Server.BOTH)
def test_an_empty_range_is_empty(opened: ImageSource, image: SampleImage) -> None:
    assert list(opened.read_at(image.layers[0], 700_001, 0)) == []


@pytest.mark.parametrize(("offset", "size"), [(700_001, 1), (0, 700_002), (-1, 2), (5, -1)])
@case(30, on=Server.BOTH)
def test_bytes_a_blob_does_not_have_are_refused(
    opened: ImageSource, image: SampleImage, offset: int, size: int
) -> None:
    with pytest.raises(RangeInvalid, match="700001 bytes"):
        list(opened.read_at(image.layers[0], offset, size))


def test_many_threads_read_one_source(opened: ImageSource, image: SampleImage) -> None:
    warm(opened, 4)
    layer = image.layers[0]
    offsets = [(number * 7919) % 690_000 for number in range(128)]
    with ThreadPoolExecutor(64) as threads:
        found = list(threads.map(lambda at: b"".join(opened.read_at(layer, at, 9999)), offsets))
    assert found == [image.contents[layer.digest][at : at + 9999] for at in offsets]


def test_a_tag_or_digest_that_is_not_there_is_not_found(
    opened: ImageSource, place: str, options: RegistryOptions
) -> None:
    for name in (f"{place}:v2", f"{place}@sha256:{'0' * 64}"):
        source = open_source(parse_reference(name), options)
        with pytest.raises(NotFound, match=r"v2|0000"):
            source.resolve()
        source.close()
    absent = describe(b"never stored", MediaType.OCI_LAYER)
    with pytest.raises(NotFound, match=absent.digest):
        list(opened.read_blob(absent))


def test_an_image_is_found_by_its_digest(place: str, image: SampleImage, options: RegistryOptions) -> None:
    publish(image, f"{place}:v1", options)
    source = open_source(parse_reference(f"{place}@{image.descriptor().digest}"), options)
    assert source.resolve().size == len(image.manifest)
    source.close()


@case(39, on=Server.BOTH)
def test_a_descriptor_that_lies_about_the_size_is_found_out(opened: ImageSource, image: SampleImage) -> None:
    layer = image.layers[0]
    for wrong in (replace(layer, size=layer.size - 1), replace(layer, size=layer.size + 1)):
        with pytest.raises(DigestMismatch, match="promises"):
            list(opened.read_blob(wrong))
    descriptor = opened.resolve()
    with pytest.raises(DigestMismatch, match="bytes instead of"):
        opened.manifest(replace(descriptor, size=descriptor.size + 1))


def test_an_index_leads_to_the_manifest_of_a_platform(place: str, options: RegistryOptions) -> None:
    images = {"amd64": sample_image(noise(100, 1)), "arm64": sample_image(noise(100, 2))}
    entries = []
    destination = open_destination(parse_reference(f"{place}:multi"), options)
    for architecture, image in images.items():
        for descriptor in (image.config, *image.layers):
            destination.put_blob(descriptor, opener(image.contents[descriptor.digest]))
        stored = destination.put_manifest(image.manifest, image.media_type, tag=None)
        assert stored.digest == image.descriptor().digest
        entries.append({**stored.to_json(), "platform": {"os": "linux", "architecture": architecture}})
    destination.put_manifest(index_of(*entries), MediaType.OCI_INDEX, tag="multi")
    destination.close()

    source = open_source(parse_reference(f"{place}:multi"), options)
    assert isinstance(source.manifest(source.resolve()), Index)
    found = find_manifest(source, parse_platform("linux/arm64/v8"))
    assert found.raw == images["arm64"].manifest
    with pytest.raises(NotFound, match=r"linux/s390x.*linux/amd64, linux/arm64"):
        find_manifest(source, parse_platform("linux/s390x"))
    source.close()


@pytest.mark.parametrize("media_type", [MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST])
@case(12, on=Server.BOTH)
def test_media_types_survive(place: str, media_type: str, options: RegistryOptions) -> None:
    image = sample_image(noise(10), media_type=media_type)
    publish(image, f"{place}:v1", options)
    source = open_source(parse_reference(f"{place}:v1"), options)
    assert source.resolve().media_type == media_type
    source.close()


def test_content_that_is_not_what_it_was_promised_to_be_is_not_kept(
    place: str, options: RegistryOptions
) -> None:
    destination = open_destination(parse_reference(f"{place}:v1"), options)
    promised = describe(b"promised content", MediaType.OCI_LAYER)
    for content in (b"other    content", b"short", b"promised content and more"):
        with pytest.raises(DigestMismatch):
            destination.put_blob(promised, opener(content))
        assert not destination.has_blob(promised)
    destination.put_blob(promised, opener(b"promised content"))
    assert destination.has_blob(promised)
    destination.close()


def test_a_blob_that_is_there_is_not_opened_again(place: str, options: RegistryOptions) -> None:
    destination = open_destination(parse_reference(f"{place}:v1"), options)
    blob = describe(noise(1000), MediaType.OCI_LAYER)
    opened = []

    def open_blob() -> io.BytesIO:
        opened.append(1)
        return io.BytesIO(noise(1000))

    destination.put_blob(blob, open_blob)
    destination.put_blob(blob, open_blob)
    destination.close()
    assert len(opened) == 1


@pytest.mark.parametrize("place", [one for one in PLACES if one != "oci-archive"], indirect=True)
def test_a_second_image_leaves_the_first_where_it_was(
    place: str, image: SampleImage, options: RegistryOptions
) -> None:
    other = sample_image(noise(50, 3))
    publish(image, f"{place}:v1", options)
    publish(other, f"{place}:v2", options)
    publish(other, f"{place}:v3", options)
    publish(image, f"{place}:v3", options)
    for tag, expected in (("v1", image), ("v2", other), ("v3", image)):
        source = open_source(parse_reference(f"{place}:{tag}"), options)
        assert source.resolve().digest == expected.descriptor().digest
        source.close()


def test_an_unknown_kind_of_document_is_refused(place: str, options: RegistryOptions) -> None:
    destination = open_destination(parse_reference(f"{place}:v1"), options)
    with pytest.raises(MediaTypeUnknown, match="only OCI and Docker schema 2"):
        destination.put_manifest(json.dumps({"schemaVersion": 2}).encode(), "application/x-cake", tag="v1")
    destination.close()


def test_an_unread_range_can_be_given_up(opened: ImageSource, image: SampleImage) -> None:
    layer = image.layers[0]
    for _ in range(40):
        iterator = opened.read_at(layer, 0, layer.size)
        next(iterator)
        del iterator
    assert digest_of(b"".join(opened.read_blob(layer))) == layer.digest
