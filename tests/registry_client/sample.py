"""Images made on the spot, and the places they are put for the tests."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from registry_client import open_destination, open_source
from registry_client.digest import digest_of
from registry_client.manifest import Descriptor, MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.source import ImageSource
from tests.support.scripted_registry import ScriptedRegistry


@dataclass(frozen=True, slots=True)
class SampleImage:
    """One image: everything its manifest names, by digest."""

    manifest: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]
    contents: dict[str, bytes]
    media_type: str = MediaType.OCI_MANIFEST

    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, digest_of(self.manifest), len(self.manifest))


def noise(size: int, seed: int = 0) -> bytes:
    """*size* bytes that no two seeds share."""
    return random.Random(seed).randbytes(size)


def sample_image(*layers: bytes, media_type: str = MediaType.OCI_MANIFEST) -> SampleImage:
    """An image with *layers* (default: one of 700,001 bytes)."""
    contents = layers or (noise(700_001),)
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    config_descriptor = describe(config, MediaType.OCI_CONFIG)
    descriptors = tuple(describe(layer, MediaType.OCI_LAYER) for layer in contents)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config_descriptor.to_json(),
        "layers": [descriptor.to_json() for descriptor in descriptors],
    }
    return SampleImage(
        json.dumps(document).encode(),
        config_descriptor,
        descriptors,
        {digest_of(content): content for content in (config, *contents)},
        media_type,
    )


def describe(content: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


def index_of(*entries: dict[str, Any], media_type: str = MediaType.OCI_INDEX) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)}).encode()


def opener(content: bytes) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(content)


def read(source: ImageSource, image: SampleImage, offset: int = 10, size: int = 5000) -> None:
    """Read a range of the first layer and compare."""
    layer = image.layers[0]
    found = b"".join(source.read_at(layer, offset, size))
    assert found == image.contents[layer.digest][offset : offset + size]


def publish(image: SampleImage, reference: str, options: RegistryOptions) -> None:
    """Put *image* at *reference*, blobs first."""
    parsed = parse_reference(reference)
    destination = open_destination(parsed, options)
    try:
        for descriptor in (image.config, *image.layers):
            destination.put_blob(descriptor, opener(image.contents[descriptor.digest]))
        destination.put_manifest(image.manifest, image.media_type, tag=parsed.tag)
    finally:
        destination.close()


def store(image: SampleImage, server: ScriptedRegistry, repository: str = "demo/py", tag: str = "v1") -> str:
    """Put *image* into *server* directly; returns its reference."""
    for content in image.contents.values():
        server.add_blob(content)
    server.add_manifest(repository, tag, image.manifest, image.media_type)
    return f"{server.host}/{repository}:{tag}"


def use(reference: str, image: SampleImage, options: RegistryOptions, blob: bytes) -> None:
    """Read *image*, and write *blob*."""
    source = open_source(parse_reference(reference), options)
    destination = open_destination(parse_reference(reference), options)
    try:
        read(source, image)
        destination.put_blob(describe(blob, MediaType.OCI_LAYER), opener(blob))
    finally:
        source.close()
        destination.close()
