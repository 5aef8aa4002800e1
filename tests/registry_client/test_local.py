"""Layouts and archives on this host: broken ones are refused, interrupted writes leave nothing, others
can read ours.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from registry_client import open_destination, open_source
from registry_client.digest import digest_of
from registry_client.errors import DigestMismatch, LayoutInvalid, LayoutUnusable, NotFound, RegistryError
from registry_client.layouts.layout import REF_NAME
from registry_client.layouts.region import DirectoryTree
from registry_client.manifest import Manifest, MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.source import ImageDestination, ImageSource
from tests.registry_client.sample import SampleImage, describe, noise, opener, publish, sample_image

OPTIONS = RegistryOptions()


def opened(reference: str) -> ImageSource:
    return open_source(parse_reference(reference), OPTIONS)


def index(root: Path) -> Any:
    return json.loads((root / "index.json").read_text())


def tar_of(
    file: Path, members: dict[str, bytes], links: dict[str, str] | None = None, mode: str = "w"
) -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return file


@pytest.fixture
def layout(tmp_path: Path, image: SampleImage) -> Path:
    publish(image, f"oci:{tmp_path}/layout:v1", OPTIONS)
    return tmp_path / "layout"


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda root: shutil.rmtree(root), NotFound, "there is no directory"),
        (
            lambda root: [(root / one).unlink() for one in ("oci-layout", "index.json")],
            NotFound,
            "not an OCI image layout",
        ),
        (lambda root: (root / "oci-layout").unlink(), LayoutInvalid, "no file oci-layout"),
        (lambda root: (root / "index.json").unlink(), LayoutInvalid, "no file index.json"),
        (
            lambda root: (root / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}'),
            LayoutInvalid,
            "'2.0.0'",
        ),
        (lambda root: (root / "index.json").write_text("{"), LayoutInvalid, "is not JSON"),
        (lambda root: (root / "index.json").write_text("{}"), LayoutInvalid, "lists no manifests"),
        (lambda root: (root / "index.json").write_text('{"manifests":[{}]}'), LayoutInvalid, "broken entry"),
    ],
)
def test_a_broken_layout_is_refused(
    layout: Path, damage: Callable[[Path], object], error: type[RegistryError], words: str
) -> None:
    damage(layout)
    with pytest.raises(error, match=words):
        opened(f"oci:{layout}:v1").resolve()


def test_a_damaged_blob_is_found_out(layout: Path, image: SampleImage) -> None:
    layer = image.layers[0]
    file = layout / "blobs/sha256" / layer.digest.removeprefix("sha256:")
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    source = opened(f"oci:{layout}:v1")
    with pytest.raises(DigestMismatch, match="instead of"):
        list(source.read_blob(layer))
    file.write_bytes(content[:-1])
    with pytest.raises(DigestMismatch, match="700000 bytes instead of the 700001"):
        list(source.read_at(layer, 0, 5))
    (layout / "blobs/sha256" / image.descriptor().digest.removeprefix("sha256:")).write_bytes(b"{}")
    with pytest.raises(DigestMismatch, match="2 bytes instead of"):
        source.manifest(source.resolve())


def test_several_images_want_a_name(layout: Path) -> None:
    publish(sample_image(noise(5, 5)), f"oci:{layout}:other", OPTIONS)
    with pytest.raises(NotFound, match=rf"2 images \(v1, other\): name one as oci:{layout}:TAG"):
        opened(f"oci:{layout}").resolve()


def test_names_of_containerd_and_entries_of_others_are_respected(layout: Path, image: SampleImage) -> None:
    document = index(layout)
    document["manifests"][0]["annotations"] = {"io.containerd.image.name": "docker.io/a/b:c", "other": "kept"}
    document["annotations"] = {"top": "kept"}
    (layout / "index.json").write_text(json.dumps(document))
    publish(sample_image(noise(5, 5)), f"oci:{layout}:v2", OPTIONS)
    assert opened(f"oci:{layout}:docker.io/a/b:c").resolve().digest == image.descriptor().digest
    after = index(layout)
    assert after["annotations"] == {"top": "kept"}
    assert after["manifests"][0] == document["manifests"][0]
    assert after["manifests"][1]["annotations"] == {REF_NAME: "v2"}


def test_concurrent_writers_lose_no_entry(tmp_path: Path) -> None:
    def put(number: int) -> None:
        publish(sample_image(noise(100, number)), f"oci:{tmp_path}/shared:t{number}", OPTIONS)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(24)))
    names = {entry["annotations"][REF_NAME] for entry in index(tmp_path / "shared")["manifests"]}
    assert names == {f"t{number}" for number in range(24)}


@pytest.mark.parametrize("newer", [b"{}", b'{"manifests": [], "more": "' + b"x" * 500_000 + b'"}'])
def test_a_document_that_is_replaced_while_it_is_looked_for_is_read_whole(
    tmp_path: Path, newer: bytes
) -> None:
    (tmp_path / "index.json").write_bytes(b'{"manifests": []}')
    found = DirectoryTree(tmp_path).find("index.json")
    assert found is not None
    (tmp_path / "new").write_bytes(newer)
    (tmp_path / "new").rename(tmp_path / "index.json")
    assert found.read("the index", 600_000) == newer
    if len(newer) > 100:
        with pytest.raises(LayoutInvalid, match="more than the 100"):
            found.read("the index", 100)


def test_a_strangers_directory_is_not_made_a_layout(tmp_path: Path) -> None:
    directory = tmp_path / "study"
    directory.mkdir()
    (directory / "thesis.txt").write_text("precious")
    with pytest.raises(LayoutInvalid, match=r"it has 'thesis.txt'\); name an empty or a new directory"):
        open_destination(parse_reference(f"oci:{directory}:v1"), OPTIONS)
    assert [path.name for path in directory.iterdir()] == ["thesis.txt"]


class Breaks(io.BytesIO):
    """A file that fails to be read after its first bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read(1000)


def test_a_new_layout_in_which_nothing_was_put_is_taken_away_with_what_was_made_for_it(
    tmp_path: Path, image: SampleImage
) -> None:
    base = tmp_path / "base"
    base.mkdir()

    def destination() -> ImageDestination:
        return open_destination(parse_reference(f"oci:{base}/above/layout:v1"), OPTIONS)

    content = noise(5000)
    blob = describe(content, MediaType.OCI_LAYER)
    breaking = destination()
    with pytest.raises(LayoutInvalid, match="input/output error"):
        breaking.put_blob(blob, lambda: Breaks(content))
    breaking.close()
    assert list(base.iterdir()) == []
    (base / "above" / "layout").mkdir(parents=True)
    destination().close()
    assert list((base / "above" / "layout").iterdir()) == []
    # Another one that has opened it meanwhile goes on.
    first, second = destination(), destination()
    first.close()
    second.put_blob(blob, opener(content))
    second.close()
    again = destination()
    assert again.has_blob(blob), "a conversion that was cut off finds what it has put"
    again.close()
    publish(image, f"oci:{base}/above/layout:v1", OPTIONS)
    assert opened(f"oci:{base}/above/layout:v1").resolve()


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_a_write_that_breaks_off_leaves_nothing_under_a_final_name(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out"
    place.mkdir()
    name = f"oci:{place}/x:v1" if kind == "oci" else f"oci-archive:{place}/x.tar:v1"
    destination = open_destination(parse_reference(name), OPTIONS)
    content = noise(500_000)
    blob = describe(content, MediaType.OCI_LAYER)
    with pytest.raises(LayoutInvalid, match="input/output error"):
        destination.put_blob(blob, lambda: Breaks(content))
    assert not destination.has_blob(blob)
    destination.close()
    assert list(place.iterdir()) == []


def test_an_archive_appears_only_with_its_manifest_and_replaces_the_old_one_whole(
    tmp_path: Path, image: SampleImage
) -> None:
    file = tmp_path / "image.tar"
    publish(image, f"oci-archive:{file}:v1", OPTIONS)
    before = file.read_bytes()
    broken = open_destination(parse_reference(f"oci-archive:{file}:v1"), OPTIONS)
    broken.put_blob(image.config, opener(image.contents[image.config.digest]))
    broken.put_manifest(image.manifest, image.media_type, tag=None)
    broken.close()
    broken.close()
    assert file.read_bytes() == before
    other = sample_image(noise(30, 8))
    publish(other, f"oci-archive:{file}:v1", OPTIONS)
    assert opened(f"oci-archive:{file}:v1").resolve().digest == other.descriptor().digest
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["image.tar"]


def test_an_archive_never_takes_the_place_of_a_pipe_or_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for name in ("pipe", "link"):
        with pytest.raises(LayoutUnusable, match="it is a device, a pipe or a socket; name another place"):
            open_destination(parse_reference(f"oci-archive:{tmp_path / name}:v1"), OPTIONS)
    assert pipe.is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_an_archive_is_written_where_a_link_leads(tmp_path: Path, image: SampleImage) -> None:
    (tmp_path / "link").symlink_to("image.tar")
    publish(image, f"oci-archive:{tmp_path / 'link'}:v1", OPTIONS)
    assert (tmp_path / "link").is_symlink()
    assert opened(f"oci-archive:{tmp_path / 'image.tar'}:v1").resolve()


@pytest.mark.parametrize("name", ["x" * 255, "\u5b57" * 85])
def test_an_archive_may_have_the_longest_of_names(tmp_path: Path, image: SampleImage, name: str) -> None:
    file = tmp_path / name
    publish(image, f"oci-archive:{file}:v1", OPTIONS)
    assert opened(f"oci-archive:{file}:v1").resolve()


def test_a_failed_blob_leaves_no_hole_in_an_archive(tmp_path: Path, image: SampleImage) -> None:
    file = tmp_path / "image.tar"
    destination = open_destination(parse_reference(f"oci-archive:{file}:v1"), OPTIONS)
    with pytest.raises(DigestMismatch):
        destination.put_blob(image.layers[0], opener(noise(700_001, 99)))
    for blob in (image.config, *image.layers):
        destination.put_blob(blob, opener(image.contents[blob.digest]))
    destination.put_manifest(image.manifest, image.media_type, tag="v1")
    destination.close()
    with tarfile.open(file) as archive:
        assert len(archive.getnames()) == 5
    assert (
        b"".join(opened(f"oci-archive:{file}").read_blob(image.layers[0]))
        == image.contents[image.layers[0].digest]
    )


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable tar|not an OCI image layout|not a docker archive"),
        (b"not a tar at all" * 100, "not a readable tar"),
        (gzip.compress(b"x" * 1000, mtime=0), "compressed with gzip: decompress it first"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, transport: str, content: bytes, words: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises((LayoutInvalid, NotFound), match=words):
        opened(f"{transport}:{tmp_path}/x.tar").resolve()
    with pytest.raises(NotFound, match="there is no file"):
        opened(f"{transport}:{tmp_path}/nowhere.tar")


def docker_members(
    layers: list[bytes], names: list[str], diff_ids: list[str] | None = None
) -> dict[str, bytes]:
    ids = diff_ids if diff_ids is not None else [digest_of(layer) for layer in layers]
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": ids}}).encode()
    table = [{"Config": "config.json", "RepoTags": ["debian:12", "a/b:c"], "Layers": names}]
    return {
        "manifest.json": json.dumps(table).encode(),
        "config.json": config,
        **dict(zip(names, layers, strict=True)),
    }


@pytest.mark.parametrize("form", ["{}/layer.tar", "blobs/sha256/{}"])
def test_a_docker_archive_reads_like_any_image(tmp_path: Path, form: str) -> None:
    layers = [noise(3000, 1), noise(700_000, 2)]
    file = tar_of(tmp_path / "x.tar", docker_members(layers, [form.format(number) for number in range(2)]))
    source = opened(f"docker-archive:{file}:debian:12")
    manifest = source.manifest(source.resolve())
    assert isinstance(manifest, Manifest)
    assert manifest.media_type == MediaType.DOCKER_MANIFEST
    assert [layer.media_type for layer in manifest.layers] == [MediaType.DOCKER_LAYER] * 2
    assert [b"".join(source.read_blob(layer)) for layer in manifest.layers] == layers
    assert b"".join(source.read_at(manifest.layers[1], 300_000, 5000)) == layers[1][300_000:305_000]
    assert json.loads(b"".join(source.read_blob(manifest.config)))["os"] == "linux"
    assert opened(f"docker-archive:{file}").resolve() == source.resolve()
    with pytest.raises(NotFound, match="it has debian:12, a/b:c"):
        opened(f"docker-archive:{file}:debian:13").resolve()


def test_a_compressed_layer_in_a_docker_archive_is_hashed_as_it_lies_there(tmp_path: Path) -> None:
    packed = gzip.compress(b"tar bytes", mtime=0)
    members = docker_members([packed], ["l.tar.gz"], [digest_of(b"tar bytes")])
    source = opened(f"docker-archive:{tar_of(tmp_path / 'x.tar', members)}")
    manifest = source.manifest(source.resolve())
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0] == describe(packed, MediaType.DOCKER_LAYER_GZIP)
    assert b"".join(source.read_blob(manifest.layers[0])) == packed


def test_repeated_layers_may_be_links(tmp_path: Path) -> None:
    members = docker_members([noise(2000)], ["a/layer.tar"])
    members["manifest.json"] = members["manifest.json"].replace(b'["a/layer.tar"]', b'["b/layer.tar"]')
    file = tar_of(tmp_path / "x.tar", members, {"b/layer.tar": "../a/layer.tar"})
    source = opened(f"docker-archive:{file}")
    manifest = source.manifest(source.resolve())
    assert isinstance(manifest, Manifest)
    assert b"".join(source.read_blob(manifest.layers[0])) == noise(2000)
    looped = tar_of(tmp_path / "y.tar", members | {"z": b""}, {"b/layer.tar": "../c", "c": "b/layer.tar"})
    with pytest.raises(LayoutInvalid, match="loop of links"):
        opened(f"docker-archive:{looped}").resolve()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"manifest.json": b"{"}, "not JSON"),
        ({"manifest.json": b"{}"}, "not a list of images"),
        ({"manifest.json": b"[]"}, "not a list of images"),
        ({"manifest.json": b'[{"Layers": ["x"]}]'}, "names no config"),
        ({"manifest.json": b'[{"Config": "nowhere", "Layers": []}]'}, "no member 'nowhere'"),
        ({"manifest.json": b'[{"Config": "config.json", "Layers": 5}]'}, "broken layers"),
        ({"manifest.json": b'[{"Config": "config.json", "Layers": "layer.tar"}]'}, "broken layers"),
        ({"config.json": b"[]"}, "JSON list"),
        ({"config.json": b"{}"}, "no diff_ids"),
        ({"config.json": b'{"rootfs":{"diff_ids":[]}}'}, "1 layers but its config lists 0"),
        ({"config.json": b'{"rootfs":{"diff_ids":["x"]}}'}, "broken"),
    ],
)
def test_a_broken_docker_archive_is_refused(tmp_path: Path, changes: dict[str, bytes], words: str) -> None:
    members = {**docker_members([noise(100)], ["layer.tar"]), **changes}
    with pytest.raises(LayoutInvalid, match=words):
        opened(f"docker-archive:{tar_of(tmp_path / 'x.tar', members)}").resolve()


def test_names_in_a_docker_archive_that_are_no_list_are_none(tmp_path: Path) -> None:
    members = {**docker_members([], []), "manifest.json": b'[{"Config": "config.json", "RepoTags": 5}]'}
    file = tar_of(tmp_path / "x.tar", members)
    with pytest.raises(NotFound, match="images without a name"):
        opened(f"docker-archive:{file}:debian:12").resolve()
    assert opened(f"docker-archive:{file}").resolve()


def test_a_layer_that_is_not_its_diff_id_fails_when_it_is_read(tmp_path: Path) -> None:
    members = {**docker_members([noise(100)], ["layer.tar"]), "layer.tar": noise(100, 7)}
    source = opened(f"docker-archive:{tar_of(tmp_path / 'x.tar', members)}")
    manifest = source.manifest(source.resolve())
    assert isinstance(manifest, Manifest)
    with pytest.raises(DigestMismatch):
        list(source.read_blob(manifest.layers[0]))


@pytest.mark.system
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    layer = tar_of(tmp_path / "layer.tar", {"hello": b"world"}).read_bytes()
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    ).encode()
    blobs = {MediaType.OCI_CONFIG: config, MediaType.OCI_LAYER: layer}
    shown = [describe(content, kind).to_json() for kind, content in blobs.items()]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MediaType.OCI_MANIFEST, "config": shown[0], "layers": shown[1:]}
    ).encode()
    ours = [f"oci:{tmp_path}/ours:v1", f"oci-archive:{tmp_path}/ours.tar:v1"]
    theirs = [
        f"oci:{tmp_path}/theirs:v1",
        f"oci-archive:{tmp_path}/theirs.tar:v1",
        f"docker-archive:{tmp_path}/docker.tar:demo/py:v1",
    ]
    for name, other in zip([*ours, ours[0]], theirs, strict=True):
        destination = open_destination(parse_reference(name), OPTIONS)
        for kind, content in blobs.items():
            destination.put_blob(describe(content, kind), opener(content))
        destination.put_manifest(manifest, MediaType.OCI_MANIFEST, tag="v1")
        destination.close()
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", name, other],
            check=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        source = opened(other)
        found = source.manifest(source.resolve())
        assert isinstance(found, Manifest)
        packed = b"".join(source.read_blob(found.layers[0]))
        gzipped = packed.startswith(b"\x1f\x8b")
        assert (gzip.decompress(packed) if gzipped else packed) == layer
