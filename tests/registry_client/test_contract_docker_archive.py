"""The reading half of the contract, over `docker-archive:`, which is never written to."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_client import open_source
from registry_client.digest import digest_of
from registry_client.manifest import Manifest, MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.source import ImageSource
from tests.registry_client import test_contract as contract
from tests.registry_client.sample import SampleImage, describe, noise


@pytest.fixture
def image() -> SampleImage:
    """One layer, not compressed, which the config vouches for: an archive has no other digests."""
    layer = noise(700_001)
    diff_ids = {"type": "layers", "diff_ids": [digest_of(layer)]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": diff_ids}).encode()
    return SampleImage(
        b"",
        describe(config, MediaType.OCI_CONFIG),
        (describe(layer, MediaType.OCI_LAYER),),
        {digest_of(config): config, digest_of(layer): layer},
    )


@pytest.fixture
def opened(image: SampleImage, options: RegistryOptions, tmp_path: Path) -> Iterator[ImageSource]:
    """The sample image as `docker save` would pack it."""
    packed = [{"Config": "config.json", "RepoTags": ["demo/py:v1"], "Layers": ["layer/layer.tar"]}]
    members = {
        "manifest.json": json.dumps(packed).encode(),
        "config.json": image.contents[image.config.digest],
        "layer/layer.tar": image.contents[image.layers[0].digest],
    }
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    source = open_source(parse_reference(f"docker-archive:{tmp_path}/image.tar:demo/py:v1"), options)
    yield source
    source.close()


def test_what_was_packed_is_read_back_byte_for_byte(opened: ImageSource, image: SampleImage) -> None:
    manifest = opened.manifest(opened.resolve())
    assert isinstance(manifest, Manifest)
    assert [blob.digest for blob in (manifest.config, *manifest.layers)] == list(image.contents)
    for blob in (manifest.config, *manifest.layers):
        assert b"".join(opened.read_blob(blob)) == image.contents[blob.digest]


test_a_range_has_exactly_the_bytes_asked_for = contract.test_a_range_has_exactly_the_bytes_asked_for
test_an_empty_range_is_empty = contract.test_an_empty_range_is_empty
test_bytes_a_blob_does_not_have_are_refused = contract.test_bytes_a_blob_does_not_have_are_refused
test_many_threads_read_one_source = contract.test_many_threads_read_one_source
test_an_unread_range_can_be_given_up = contract.test_an_unread_range_can_be_given_up
