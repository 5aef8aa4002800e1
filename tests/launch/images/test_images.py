"""Opening converted images from a layout on disk: what is found, kept, checked again, and refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from builder.bootstrap_layer_reader import BootstrapLayerInvalid, read_bootstrap_layer
from builder.errors import SourceUnsupported
from builder.shelf import open_dictionary
from chunk_store import ChunkStore
from erofs_fs.errors import CacheTooSmall
from launch.errors import ImageInvalid, ImageNotConverted
from launch.images import lazy_image
from launch.images.chunk_tables import read_tables
from launch.images.image_check import ImageCheck
from launch.images.lazy_image import open_image
from launch.kernel_mounts.room import require_room
from rafs.blob_meta import BlobMeta
from rafs.errors import FormatInvalid
from rafs.windows import cut_windows
from registry_client import open_destination, open_source
from registry_client.errors import NotFound, ReferenceInvalid
from registry_client.manifest import Descriptor, MediaType
from registry_client.options import RegistryOptions
from registry_client.platform import Platform, parse_platform
from registry_client.reference import parse_reference
from tests.builder.tar_bytes import END, member, octal
from tests.launch.published import CONFIG, Published, opened, publish
from tests.rafs.test_toc import tar_header, with_toc
from tests.support.fixtures import fixture
from tests.support.images import Image, image_of
from tests.support.trees import directory, file, symlink, tree

ARM = parse_platform("linux/arm64")
AMD = parse_platform("linux/amd64")


@pytest.fixture
def image() -> Image:
    return image_of(tree(file(b"a", os.urandom(300_000)), directory(b"d", file(b"b", b"text", blob=1))))


def test_opens_what_a_tag_names_and_keeps_its_documents(image: Image, tmp_path: Path) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    found = opened(published.reference, tmp_path / "root")
    assert found.digest == published.manifest.digest
    assert found.bootstrap.raw == image.bootstrap
    assert [blob.id for blob in found.blobs] == list(image.objects)
    assert json.loads(found.config) == CONFIG
    assert found.config_path is not None and found.config_path.read_bytes() == found.config
    kept = tmp_path / "root" / "images" / published.manifest.digest.removeprefix("sha256:")
    assert (kept / "manifest.json").read_bytes() == published.raw
    assert (kept / "image.boot").read_bytes() == image.bootstrap
    assert not list(kept.parent.glob(".draft-*"))


def test_reads_chunk_info_out_of_the_blobs_where_the_layer_lacks_it(image: Image, tmp_path: Path) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, with_metas=False)
    for found in (opened(published.reference, tmp_path / "root") for _ in range(2)):
        for blob, made in zip(found.blobs, image.blobs, strict=True):
            assert [blob.chunk(i).digest for i in range(blob.chunk_count)] == [
                made.digest(i) for i in range(made.chunk_count)
            ]
    kept = next((tmp_path / "root" / "images").iterdir())
    forms = {made.id: (kept / f"{made.id}.blob.meta").read_bytes() for made in image.blobs}
    assert forms == {made.id: made.cache_form() for made in image.blobs}


def test_reads_chunk_info_out_of_the_blobs_where_the_layer_has_its_header_alone(
    image: Image, tmp_path: Path
) -> None:
    forms = {f"image/{blob.id}.blob.meta": blob.cache_form()[-4096:] for blob in image.blobs}
    layer = packed(("image/image.boot", image.bootstrap), *forms.items())
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, bootstrap_layer=layer)
    found = opened(published.reference, tmp_path / "root")
    assert [blob.chunk(0).digest for blob in found.blobs] == [made.digest(0) for made in image.blobs]
    looking = ImageCheck(parse_reference(published.reference), RegistryOptions())
    looking.shallow()
    looking.close()
    told = [finding.message for finding in looking.verdict.findings if finding.rule == "meta-differs"]
    assert told == [
        "the bootstrap layer has its chunk info without the array: nydusd cannot read the blob"
    ] * len(image.blobs)


def test_blob_ranges_come_from_the_image(image: Image, tmp_path: Path) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    found = open_image(parse_reference(published.reference), RegistryOptions(), tmp_path / "root")
    name, raw = next(iter(image.objects.items()))
    assert b"".join(found.blob_source.read_at(name, 5, 1000)) == raw[5:1005]
    with pytest.raises(ImageInvalid, match="not among the manifest's layers"):
        found.blob_source.read_at("0" * 64, 0, 1)
    found.close()


def test_a_place_for_blobs_is_for_images_without_them(image: Image, tmp_path: Path) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    with pytest.raises(ReferenceInvalid, match="--blob-dir is for rafs:"):
        open_image(
            parse_reference(published.reference), RegistryOptions(), tmp_path / "root", blob_dir=tmp_path
        )


def test_a_kernel_mount_needs_room_for_what_is_not_here(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path).reference, tmp_path / "root")
    windows = [window for meta in found.blobs for window in cut_windows(meta)]
    size = sum(window.length for window in windows)
    with ChunkStore(tmp_path / "root") as store:
        attachment = store.attach(found.blobs, found.blob_source, background=False)

        def left(free: int) -> None:
            usage = shutil.disk_usage(tmp_path)._replace(free=free)
            monkeypatch.setattr("launch.kernel_mounts.room.shutil.disk_usage", lambda _: usage)

        left(size)
        require_room(found, store.directory, None)
        left(size - 1)
        with pytest.raises(CacheTooSmall, match="left"):
            require_room(found, store.directory, None)
        with pytest.raises(CacheTooSmall, match="the cache may have"):
            require_room(found, store.directory, 1)
        attachment.start_background()
        assert attachment.wait_complete(20)
        left(0)
        require_room(found, store.directory, None)


def add_index(layout: Path, entries: list[Descriptor], tag: str) -> Descriptor:
    document = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }
    destination = open_destination(parse_reference(f"oci:{layout}:{tag}"), RegistryOptions())
    put = destination.put_manifest(json.dumps(document).encode(), MediaType.OCI_INDEX, tag=tag)
    destination.close()
    return put


def entry(published: Published, platform: Platform | None, **changes: object) -> Descriptor:
    described = published.manifest
    return Descriptor(
        described.media_type,
        described.digest,
        described.size,
        platform=platform,
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "marked",
    [
        lambda published: entry(published, AMD, artifact_type="application/vnd.nydus.image.manifest.v1+json"),
        lambda published: entry(published, Platform("linux", "amd64", os_features=("nydus.remoteimage.v1",))),
    ],
    ids=["artifact type", "platform feature"],
)
def test_finds_the_converted_manifest_beside_the_ordinary_one(
    image: Image, tmp_path: Path, marked: Callable[[Published], Descriptor]
) -> None:
    layout = tmp_path / "layout"
    ordinary = publish(image, f"oci:{layout}:plain", tmp_path, annotated=False)
    converted = publish(image, f"oci:{layout}:lazy", tmp_path)
    add_index(layout, [entry(ordinary, AMD), marked(converted)], "both")
    found = opened(f"oci:{layout}:both", tmp_path / "root", AMD)
    assert found.manifest is not None and found.manifest.digest == converted.manifest.digest
    assert found.digest != converted.manifest.digest


def test_chooses_by_platform_in_an_index_of_converted_images(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    two = {
        name: publish(
            image_of(tree(file(b"f", name.encode()))),
            f"oci:{layout}:{name}",
            tmp_path,
            config={"os": "linux", "architecture": f"{name}64"},
        )
        for name in ("amd", "arm")
    }
    add_index(layout, [entry(two["amd"], AMD), entry(two["arm"], ARM)], "all")
    for name, platform in (("amd", AMD), ("arm", ARM)):
        found = opened(f"oci:{layout}:all", tmp_path / "root", platform)
        assert found.manifest is not None and found.manifest.digest == two[name].manifest.digest
    with pytest.raises(NotFound, match="linux/s390x"):
        opened(f"oci:{layout}:all", tmp_path / "root", parse_platform("linux/s390x"))


def test_a_single_image_for_another_platform_than_was_asked_for_is_refused(
    image: Image, tmp_path: Path
) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    for _ in range(2):
        for reference in (published.reference, f"oci:{tmp_path / 'layout'}@{published.manifest.digest}"):
            with pytest.raises(SourceUnsupported, match="made for linux/amd64, asked for was linux/arm64"):
                opened(reference, tmp_path / "root", ARM)
            assert opened(reference, tmp_path / "root", AMD).platform == AMD


def test_an_image_says_the_platform_it_was_made_for_and_not_the_one_asked_for(
    image: Image, tmp_path: Path
) -> None:
    made = {"os": "linux", "architecture": "s390x"}
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, config=made)
    assert str(opened(published.reference, tmp_path / "root").platform) == "linux/s390x"
    silent = publish(image, f"oci:{tmp_path / 'layout'}:v2", tmp_path, config={})
    assert opened(silent.reference, tmp_path / "root", ARM).platform == ARM


def test_an_image_in_an_index_within_an_index_opens_and_can_be_a_chunk_dictionary(
    image: Image, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    ordinary = publish(image_of(tree()), f"oci:{layout}:plain", tmp_path, annotated=False)
    converted = publish(image, f"oci:{layout}:lazy", tmp_path)
    marked = entry(converted, AMD, artifact_type="application/vnd.nydus.image.manifest.v1+json")
    inner = add_index(layout, [entry(ordinary, AMD), marked], "inner")
    add_index(layout, [replace(inner, platform=AMD)], "outer")
    found = opened(f"oci:{layout}:outer", tmp_path / "root", AMD)
    assert found.manifest is not None and found.manifest.digest == converted.manifest.digest
    source = open_source(parse_reference(f"oci:{layout}:outer"), RegistryOptions())
    assert list(open_dictionary(source, AMD).blobs) == list(image.objects)
    source.close()


def test_an_ordinary_image_is_refused_with_what_to_do(image: Image, tmp_path: Path) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, annotated=False)
    with pytest.raises(ImageNotConverted, match="nopull convert"):
        opened(published.reference, tmp_path / "root")


def test_a_known_digest_opens_without_its_source(image: Image, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    published = publish(image, f"oci:{layout}:v1", tmp_path)
    opened(published.reference, tmp_path / "root")
    (layout / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    found = opened(f"oci:{layout}@{published.manifest.digest}", tmp_path / "root")
    assert found.bootstrap.raw == image.bootstrap


def test_a_kept_image_opens_without_reading_its_tables(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    first = opened(published.reference, tmp_path / "root")
    reads: list[int] = []

    def counted(*given: Any) -> tuple[BlobMeta, ...]:
        reads.append(1)
        return read_tables(*given)

    monkeypatch.setattr(lazy_image, "read_tables", counted)
    found = opened(published.reference, tmp_path / "root")
    assert reads == []
    assert [meta.digests for meta in found.blobs] == [meta.digests for meta in first.blobs]
    assert found.blobs is found.blobs
    assert reads == [1]


def test_a_tag_that_moved_is_followed(image: Image, tmp_path: Path) -> None:
    reference = f"oci:{tmp_path / 'layout'}:v1"
    publish(image, reference, tmp_path)
    opened(reference, tmp_path / "root")
    moved = publish(image_of(tree(file(b"new", b"new"))), reference, tmp_path)
    assert opened(reference, tmp_path / "root").digest == moved.manifest.digest


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "image.boot", "notes.json", "META"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_kept_documents_are_fetched_again(
    image: Image, tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    opened(published.reference, tmp_path / "root")
    kept = tmp_path / "root" / "images" / published.manifest.digest.removeprefix("sha256:")
    victim = kept / (f"{image.blobs[0].id}.blob.meta" if name == "META" else name)
    raw = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(raw[:-1] if damage == "cut" else raw[:9] + bytes([raw[9] ^ 1]) + raw[10:])
    found = opened(published.reference, tmp_path / "root")
    assert found.bootstrap.raw == image.bootstrap
    assert victim.read_bytes() == raw
    assert "fetched again" in caplog.text


def test_leftovers_of_dead_processes_are_swept(image: Image, tmp_path: Path) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path)
    images = tmp_path / "root" / "images"
    (images / ".draft-999999999-aa").mkdir(parents=True)
    mine = images / f".draft-{os.getpid()}-bb"
    mine.mkdir()
    opened(published.reference, tmp_path / "root")
    assert [path.name for path in images.glob(".draft-*")] == [mine.name]


def tar_of(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def sparse(name: bytes) -> bytes:
    """A file with a hole of 100 GiB, and without data."""
    hole, size = octal(100 << 30, 12) + octal(0, 12), octal(100 << 30, 12)
    return member(name, kind=b"S", magic=b"ustar  \0", patches={386: hole, 483: size})


def packed(*members: tuple[str, bytes]) -> bytes:
    return gzip.compress(tar_of(*members), mtime=0)


@pytest.mark.parametrize("prefix", ["", "./"], ids=["names", "dot-slash names"])
@pytest.mark.parametrize(
    "stored",
    [lambda tar: tar, gzip.compress, zstandard.compress],
    ids=["plain", "gzip", "zstd"],
)
def test_an_image_that_opens_can_be_a_chunk_dictionary(
    image: Image, tmp_path: Path, stored: Callable[[bytes], bytes], prefix: str
) -> None:
    forms = {f"{prefix}image/{blob.id}.blob.meta": blob.cache_form() for blob in image.blobs}
    layer = stored(tar_of((f"{prefix}image/image.boot", image.bootstrap), *forms.items()))
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, bootstrap_layer=layer)
    assert opened(published.reference, tmp_path / "root").bootstrap.raw == image.bootstrap
    source = open_source(parse_reference(published.reference), RegistryOptions())
    assert list(open_dictionary(source, AMD).blobs) == list(image.objects)
    source.close()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (b"", "is not a tar archive"),
        (b"no tar at all" * 100, "is not a tar archive"),
        (packed(("image/other", b"x")), "lacks the bootstrap"),
        (packed(("image/image.boot", b"x" * 99))[:-20], "ends early"),
        (
            gzip.compress(gzip.decompress(packed(("image/image.boot", b"x" * 9999)))[:3000], mtime=0),
            "has 9999 bytes, 2488 are there",
        ),
        (member(b"image/image.boot", b"x" * 99) + member(b"image/y", size=-512) + END, "-512 bytes"),
        (sparse(b"image/image.boot") + END, "not as a plain file"),
        (member(b"image/image.boot", kind=b"1", link=b"image/image.boot") + END, "not as a plain file"),
        (b"\x1f\x8b garbage", "damaged"),
        (b"\x28\xb5\x2f\xfd garbage", "damaged"),
    ],
    ids=[
        *("empty", "no-tar", "no-bootstrap", "cut-gzip", "cut-tar"),
        *("negative", "sparse", "link", "no-gzip", "no-zstd"),
    ],
)
def test_a_broken_bootstrap_layer_is_refused_and_nothing_is_kept(
    image: Image, tmp_path: Path, layer: bytes, words: str
) -> None:
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, bootstrap_layer=layer)
    with pytest.raises(ImageInvalid, match=words):
        opened(published.reference, tmp_path / "root")
    assert not list((tmp_path / "root").glob("*/*"))


def test_members_of_a_bootstrap_layer_that_nobody_asked_for_do_no_harm(image: Image, tmp_path: Path) -> None:
    others = member(b"image/link", kind=b"2", link=b"nowhere")
    others += member(b"image/loop", kind=b"1", link=b"image/loop") + sparse(b"image/other.boot")
    forms = {f"image/{blob.id}.blob.meta": blob.cache_form() for blob in image.blobs}
    layer = others + tar_of(("image/image.boot", image.bootstrap), *forms.items())
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, bootstrap_layer=layer)
    assert opened(published.reference, tmp_path / "root").bootstrap.raw == image.bootstrap


def test_a_broken_bootstrap_is_refused_and_not_kept(image: Image, tmp_path: Path) -> None:
    layer = packed(("image/image.boot", image.bootstrap[:5000]))
    published = publish(image, f"oci:{tmp_path / 'layout'}:v1", tmp_path, bootstrap_layer=layer)
    with pytest.raises(FormatInvalid):
        opened(published.reference, tmp_path / "root")
    assert not list((tmp_path / "root").glob("*/*"))


def test_a_layer_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.bootstrap_layer_reader.UNPACKED_LIMIT", 1 << 20)
    bomb = gzip.compress(bytes(64 << 20), 1)
    with pytest.raises(BootstrapLayerInvalid, match="unpacks to more than 1048576 bytes"):
        read_bootstrap_layer([bomb], "the layer")


def test_a_layer_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.bootstrap_layer_reader.PACKED_LIMIT", 1 << 20)
    taken = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield bytes(1 << 18)

    with pytest.raises(BootstrapLayerInvalid, match="has more than 1048576 bytes"):
        read_bootstrap_layer(endless(), "the layer")  # type: ignore[arg-type]
    assert len(taken) == 5


def test_a_bare_bootstrap_opens_with_its_blobs_beside_it(image: Image, tmp_path: Path) -> None:
    (tmp_path / "image.boot").write_bytes(image.bootstrap)
    for name, raw in image.objects.items():
        (tmp_path / name).write_bytes(raw)
    found = opened(f"rafs:{tmp_path / 'image.boot'}", tmp_path / "root")
    assert found.config_path is None and found.manifest is None
    name, raw = next(iter(image.objects.items()))
    assert b"".join(found.blob_source.read_at(name, 7, 100)) == raw[7:107]


def test_the_object_of_a_layer_without_data_opens_however_short(tmp_path: Path) -> None:
    made = image_of(tree(symlink(b"link", b"a")))
    raw = tar_header(b"image.blob", 0) + with_toc(made.bootstrap, compressed_offset=512)
    (tmp_path / "object").write_bytes(raw)
    found = opened(f"rafs:{tmp_path / 'object'}", tmp_path / "root")
    assert len(raw) < 4096
    assert found.bootstrap.raw == made.bootstrap and found.blobs == ()


def test_the_object_of_a_layer_without_data_opens_where_it_begins_with_its_bootstrap(tmp_path: Path) -> None:
    made = image_of(tree(symlink(b"link", b"a")))
    (tmp_path / "object").write_bytes(made.bootstrap + tar_header(b"image.boot", len(made.bootstrap)))
    found = opened(f"rafs:{tmp_path / 'object'}", tmp_path / "root")
    assert found.bootstrap.raw == made.bootstrap and found.blobs == ()


@pytest.mark.parametrize("size", [0, 3, 511, 1932, 9000])
def test_a_file_that_is_neither_bootstrap_nor_object_is_called_so(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"?" * size)
    with pytest.raises(FormatInvalid, match="neither a bootstrap nor a blob object with one"):
        opened(f"rafs:{tmp_path / 'file'}", tmp_path / "root")


def test_a_bare_bootstrap_without_its_blobs_says_where_it_looked(image: Image, tmp_path: Path) -> None:
    (tmp_path / "image.boot").write_bytes(image.bootstrap)
    with pytest.raises(NotFound, match="--blob-dir"):
        opened(f"rafs:{tmp_path / 'image.boot'}", tmp_path / "root")
    with pytest.raises(NotFound, match="there is no bootstrap"):
        opened(f"rafs:{tmp_path / 'other.boot'}", tmp_path / "root")


def test_chunk_info_that_its_blob_contradicts_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "image.boot").write_bytes(image.bootstrap)
    for name, raw in image.objects.items():
        # The last entry of the table of contents lies just before its 512-byte header.
        (tmp_path / name).write_bytes(raw[:-600] + bytes([raw[-600] ^ 1]) + raw[-599:])
    with pytest.raises(ImageInvalid, match="table of contents has sha256"):
        opened(f"rafs:{tmp_path / 'image.boot'}", tmp_path / "root")


def test_an_image_of_nydus_tools_opens() -> None:
    folder = fixture("nydus") / "v6-2.2"
    found = open_image(
        parse_reference(f"rafs:{folder / 'rafs-v6-2.2.boot'}"), RegistryOptions(), Path("/nonexistent")
    )
    assert found.blobs and found.bootstrap.inode_count > 0
