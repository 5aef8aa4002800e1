"""A converted image is found from the ordinary one it refers to, and nothing is lost where it is not."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder.convert_verb import convert
from builder.image_documents import NYDUS_VERSION
from launch.errors import ImageNotConverted
from launch.images import converted
from registry_client import open_destination, open_source
from registry_client.digest import digest_of
from registry_client.manifest import Descriptor, Manifest, MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.builder.layouts import Layout
from tests.launch.published import opened, publish
from tests.support.images import image_of
from tests.support.scripted_registry import Reply, ScriptedRegistry
from tests.support.trees import file, layer_tar, tree

REFERRERS = "GET /v2/app/referrers/"


@pytest.fixture
def server() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as started:
        yield started


def ordinary_image(server: ScriptedRegistry, directory: Path) -> Descriptor:
    """`app:1`, an ordinary image."""
    image = image_of(tree(file(b"a", b"a")))
    return publish(image, f"{server.host}/app:1", directory, annotated=False).manifest


def converted_image(server: ScriptedRegistry, directory: Path, more: Mapping[str, Any]) -> Descriptor:
    """An image that can be mounted, with *more* in its manifest, as a list of referrers has it."""
    made = publish(image_of(tree(file(b"a", b"a"))), f"{server.host}/app:lazy", directory)
    raw = json.dumps({**json.loads(made.raw), **more}).encode()
    server.add_manifest("app", "lazy", raw, MediaType.OCI_MANIFEST)
    return Descriptor(MediaType.OCI_MANIFEST, digest_of(raw), len(raw), {NYDUS_VERSION: "6"})


def listing(*entries: Descriptor) -> Reply:
    document = {"schemaVersion": 2, "manifests": [entry.to_json() for entry in entries]}
    headers = (("Content-Type", str(MediaType.OCI_INDEX)),)
    return Reply(200, headers, json.dumps(document).encode())


def test_what_convert_made_a_referrer_opens_by_the_ordinary_name_then_also_without_the_registry(
    server: ScriptedRegistry, tmp_path: Path
) -> None:
    Layout(tmp_path / "in").add_image([layer_tar([tree(file(b"a", b"a" * 9000))])])
    name, lazy, root = f"{server.host}/app:1", f"{server.host}/app:lazy", tmp_path / "root"
    source = open_source(parse_reference(f"oci:{tmp_path / 'in'}:app"), RegistryOptions())
    manifest = source.manifest(source.resolve())
    assert isinstance(manifest, Manifest)
    destination = open_destination(parse_reference(name), RegistryOptions())
    for blob in (manifest.config, *manifest.layers):
        content = b"".join(source.read_blob(blob))
        destination.put_blob(blob, lambda content=content: io.BytesIO(content))  # type: ignore[misc]
    destination.put_manifest(manifest.raw, manifest.media_type, tag="1")
    source.close()
    destination.close()
    with pytest.raises(ImageNotConverted):
        opened(name, root)
    assert CliRunner().invoke(convert, [name, lazy, "--referrer"], catch_exceptions=False).exit_code == 0
    found, direct = opened(name, root), opened(lazy, root)
    assert found.manifest == direct.manifest
    assert found.digest == manifest.digest
    before = len(server.seen(REFERRERS))
    by_digest = f"{server.host}/app@{manifest.digest}"
    assert opened(name, root).manifest == opened(by_digest, root).manifest == direct.manifest
    assert len(server.seen(REFERRERS)) == before + 1, "a known tag asks for no referrers"
    server.stop()
    assert opened(name, root).manifest == opened(by_digest, root).manifest == direct.manifest


def test_the_first_that_can_be_mounted_of_those_listed_is_taken(
    server: ScriptedRegistry, tmp_path: Path
) -> None:
    ordinary = ordinary_image(server, tmp_path)
    refers = {"subject": ordinary.to_json()}
    signature = Descriptor(MediaType.OCI_MANIFEST, digest_of(b"s"), 1, artifact_type="application/example")
    missing = Descriptor(MediaType.OCI_MANIFEST, digest_of(b"m"), 1, {NYDUS_VERSION: "6"})
    other = converted_image(server, tmp_path, {})
    first = converted_image(server, tmp_path, refers)
    second = converted_image(server, tmp_path, {**refers, "annotations": {"second": "2"}})
    entries = [signature, missing, ordinary, other, first, second]
    server.lie(lambda request, reply: listing(*entries), REFERRERS)
    found = opened(f"{server.host}/app:1", tmp_path / "root")
    assert found.manifest is not None and found.manifest.digest == first.digest
    assert not server.seen(f"GET /v2/app/manifests/{signature.digest}")


@pytest.mark.parametrize(
    "answer",
    [
        listing(),
        Reply(404),
        Reply(403),
        Reply(429, (("Retry-After", "60"),)),
        Reply(500),
        Reply(200, (("Content-Type", str(MediaType.OCI_INDEX)),), b"{"),
        Reply(200, (("Content-Type", str(MediaType.OCI_INDEX)),), b'{"manifests": [1]}'),
        Reply(200, (("Content-Type", "text/html"),), b"<html>"),
        Reply(200, (("Content-Type", str(MediaType.OCI_INDEX)),), b"{}", cut=1, stall=True),
    ],
)
def test_a_registry_that_says_nothing_useful_is_asked_once_and_changes_no_message(
    server: ScriptedRegistry, tmp_path: Path, answer: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converted, "_REFERRERS_SECONDS", 0.5)
    ordinary_image(server, tmp_path)
    server.lie(lambda request, reply: answer, REFERRERS)
    began = time.monotonic()
    with pytest.raises(ImageNotConverted, match=r"app:1 is an ordinary image.*convert it first"):
        opened(f"{server.host}/app:1", tmp_path / "root")
    assert len(server.seen(REFERRERS)) == 1
    assert time.monotonic() - began < 5
