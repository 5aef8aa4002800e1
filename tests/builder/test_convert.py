"""A converted image shows what its layers say, is always the same, and is published whole or not at all."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from builder.convert import convert
from builder.convert_options import ConvertOptions
from builder.errors import LayerInvalid, SourceUnsupported, SpoolFailed, SpoolFull
from builder.image_documents import NYDUS_BLOB, NYDUS_BOOTSTRAP, NYDUS_SOURCE, NYDUS_VERSION
from builder.layer_record import decode
from rafs.errors import ImageTooLarge
from rafs.tree import Node, chunk_ref
from registry_client import open_destination, open_source
from registry_client.errors import DigestMismatch, NotFound
from registry_client.manifest import Descriptor, MediaType
from registry_client.options import RegistryOptions
from registry_client.platform import parse_platform
from registry_client.reference import parse_reference
from registry_client.source import ImageSource
from tests.builder.layouts import Layout, Published, convert_layout, digest_of, gzipped
from tests.builder.tar_bytes import END, member, pax
from tests.builder.test_tar_index import sparse_1_0
from tests.support.trees import (
    block_device,
    char_device,
    directory,
    expected,
    fifo,
    file,
    hardlink,
    layer_tar,
    opaque,
    symlink,
    tree,
    whiteout,
)

RANDOM = random.Random(5)
LONG = RANDOM.randbytes(300_000) + bytes(300_000)
SMALL = ConvertOptions(chunk_size=64 << 10, batch_size=128 << 10, jobs=2)

RICH = tree(
    directory(
        b"etc",
        file(b"motd", b"welcome", mode=0o4755, uid=70000, gid=3, mtime=-5, mtime_ns=250_000_000),
        symlink(b"link", b"\xff target"),
        fifo(b"pipe", mtime=9),
        char_device(b"null", 1, 3),
        block_device(b"disk", 300, 70000),
        mode=0o1777,
        mtime=12345,
    ),
    file(b"\xff\xfe", LONG, xattrs={b"user.a": b"1", b"security.capability": b"cap"}),
    file(b"empty"),
    hardlink(b"again", b"/etc/motd"),
    mode=0o711,
    uid=8,
)


def test_one_layer_is_shown_exactly(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([layer_tar([RICH])])
    report = convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    image = Published(tmp_path / "out")
    assert image.digest == report.digest
    assert image.findings() == []
    shown = image.shown()
    wanted = expected(RICH)
    assert shown.keys() == wanted.keys()
    for path, entry in wanted.items():
        found = shown[path]
        assert (found.mode, found.uid, found.gid, found.nlink) == (
            entry.mode, entry.uid, entry.gid, entry.nlink,
        ), path  # fmt: skip
        assert (found.mtime, found.mtime_ns) == (entry.mtime, entry.mtime_ns), path
        assert (found.target, found.xattrs) == (entry.target, entry.xattrs), path
        assert found.content == entry.content, path
        assert (os.major(found.rdev), os.minor(found.rdev)) == entry.rdev, path
        assert found.nid == shown[entry.inode_of].nid


LAYERS = [
    layer_tar([tree(directory(b"d", file(b"old", b"old"), file(b"kept", LONG)), file(b"gone", b"gone"))]),
    layer_tar([tree(directory(b"d", whiteout(b"old"), file(b"new", b"new")), whiteout(b"gone"))]),
    layer_tar([tree(directory(b"e", opaque(), hardlink(b"link", b"/d/kept"), file(b"copy", LONG)))]),
]


def test_layers_merge_into_one_tree_and_share_their_chunks(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    report = convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    image = Published(tmp_path / "out")
    assert image.findings() == []
    shown = image.shown()
    assert sorted(shown) == [b"/", b"/d", b"/d/kept", b"/d/new", b"/e", b"/e/copy", b"/e/link"]
    assert shown[b"/e/link"].nid == shown[b"/d/kept"].nid
    assert shown[b"/e/copy"].content == shown[b"/d/kept"].content == LONG
    first, second, third = report.images[0].layers
    assert first.blob is not None
    assert second.blob is not None
    assert third.blob is None
    assert report.images[0].chunks_shared > len(LONG) // SMALL.chunk_size


def test_the_documents_say_what_nydus_tools_expect(tmp_path: Path) -> None:
    run = {"Cmd": ["/bin/true"], "Env": ["A=b"]}
    source = Layout(tmp_path / "in").add_image(LAYERS, config=run, document={"author": "somebody"})
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    image = Published(tmp_path / "out")
    blobs, last = image.manifest["layers"][:-1], image.manifest["layers"][-1]
    assert [layer["mediaType"] for layer in blobs] == [MediaType.NYDUS_BLOB] * 2
    assert all(layer["annotations"] == {NYDUS_BLOB: "true"} for layer in blobs)
    assert last["mediaType"] == MediaType.OCI_LAYER_GZIP
    assert last["annotations"] == {NYDUS_BOOTSTRAP: "true", NYDUS_VERSION: "6"}
    assert image.manifest["annotations"][NYDUS_SOURCE] == source["digest"]
    assert image.config["rootfs"]["diff_ids"] == [
        *(layer["digest"] for layer in blobs), digest_of(image.layer_tar),
    ]  # fmt: skip
    assert (image.config["config"], image.config["author"]) == (run, "somebody")
    assert image.config["history"] == [
        {"created_by": "layer 0"},
        {"created_by": "layer 1"},
        {"created_by": "layer 2", "empty_layer": True},
        {"created_by": "Nydus Converter", "comment": "Nydus Bootstrap Layer"},
    ]
    assert [(entry.name, entry.mode) for entry in image.members] == [
        ("image", 0o755),
        ("image/image.boot", 0o444),
        *((f"image/{layer['digest'][7:]}.blob.meta", 0o444) for layer in blobs),
        ("image/nopull.layers", 0o444),
    ]
    # What reads no further than the end mark, as `nydusify check` does, must find the diff id, too.
    end = image.members[-1].offset_data + -(-image.members[-1].size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    assert image.layer_tar[end:] == bytes(2 * tarfile.BLOCKSIZE)


def test_a_docker_image_stays_one(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS, docker=True, media_type=MediaType.DOCKER_LAYER_GZIP)
    report = convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    image = Published(tmp_path / "out")
    assert report.media_type == image.manifest["mediaType"] == MediaType.DOCKER_MANIFEST
    assert image.manifest["config"]["mediaType"] == MediaType.DOCKER_CONFIG
    assert image.manifest["layers"][-1]["mediaType"] == MediaType.DOCKER_LAYER_GZIP


@pytest.mark.parametrize("layers", [[], [END], [layer_tar([tree(directory(b"d"), file(b"empty"))])]])
def test_images_without_file_bytes_have_no_blob(tmp_path: Path, layers: list[bytes]) -> None:
    Layout(tmp_path / "in").add_image(layers)
    convert_layout(tmp_path / "in", tmp_path / "out")
    image = Published(tmp_path / "out")
    assert image.findings() == []
    assert len(image.manifest["layers"]) == 1
    assert image.shown()[b"/"].mode == stat.S_IFDIR | 0o755


def test_the_digest_depends_on_input_and_options_alone(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    digests = {
        convert_layout(tmp_path / "in", tmp_path / f"out{number}", options).digest
        for number, options in enumerate(
            [SMALL, replace(SMALL, jobs=1), replace(SMALL, jobs=7, work_dir=work_dir), replace(SMALL, jobs=0)]
        )
    }
    assert len(digests) == 1
    assert list(work_dir.iterdir()) == []
    for other in (
        replace(SMALL, chunk_size=32 << 10),
        replace(SMALL, batch_size=64 << 10),
        replace(SMALL, compression_level=1),
    ):
        digests.add(convert_layout(tmp_path / "in", tmp_path / "other", other).digest)
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("media_type", "store"),
    [
        (MediaType.OCI_LAYER, bytes),
        (MediaType.OCI_LAYER_ZSTD, zstandard.compress),
        (MediaType.OCI_LAYER_GZIP, lambda raw: gzip.compress(raw[:900]) + gzip.compress(raw[900:])),
        (MediaType.OCI_LAYER_GZIP, bytes),
    ],
    ids=["plain", "zstd", "two gzip members", "plain that calls itself gzip"],
)
def test_the_layers_compression_does_not_matter(tmp_path: Path, media_type: str, store: Any) -> None:
    Layout(tmp_path / "in").add_image(LAYERS, media_type=media_type, store=store)
    Layout(tmp_path / "gzip").add_image(LAYERS)
    for name in ("in", "gzip"):
        convert_layout(tmp_path / name, tmp_path / f"{name}-out", SMALL)
    one, other = Published(tmp_path / "in-out"), Published(tmp_path / "gzip-out")
    assert one.manifest["layers"] == other.manifest["layers"]


def test_an_equal_layer_gives_an_equal_blob_whatever_lies_above(tmp_path: Path) -> None:
    Layout(tmp_path / "a").add_image(LAYERS[:1])
    Layout(tmp_path / "b").add_image(LAYERS)
    for name in "ab":
        convert_layout(tmp_path / name, tmp_path / f"{name}-out", SMALL)
    first, second = (Published(tmp_path / f"{name}-out").manifest["layers"] for name in "ab")
    assert first[0] == second[0]


def test_a_layer_that_comes_twice_is_fetched_and_stored_once(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([LAYERS[0], LAYERS[1], LAYERS[0]])
    report = convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    assert [layer.blob is None for layer in report.images[0].layers] == [False, False, True]
    assert b"/gone" in Published(tmp_path / "out").shown()


def test_sparse_files_are_whole(tmp_path: Path) -> None:
    stored = RANDOM.randbytes(5000)
    raw = sparse_1_0([(100, 3000), (500_000, 2000)], 1_000_000, stored) + END
    Layout(tmp_path / "in").add_image([raw])
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    content = Published(tmp_path / "out").shown()[b"/x"].content
    assert content[100:3100] + content[500_000:502_000] == stored
    assert content == bytes(100) + stored[:3000] + bytes(496_900) + stored[3000:] + bytes(498_000)


def test_a_terabyte_of_zeros_is_soon_converted_and_read_again(tmp_path: Path) -> None:
    big = sparse_1_0([(1 << 39, 3)], 1 << 40, b"mid") + END
    Layout(tmp_path / "in").add_image([big, layer_tar([tree(file(b"x", b"small"))])])
    report = convert_layout(tmp_path / "in", tmp_path / "out")
    assert report.images[0].chunks == 3
    assert report.images[0].chunks_shared == (1 << 22) - 2
    record = Published(tmp_path / "out").files["image/nopull.layers"]
    assert len(record) < 2000  # though it tells of the file that was replaced
    undo = decode(record).layers[1].undo
    assert undo is not None
    node = undo.entries[0][1]
    assert isinstance(node, Node)
    assert len(node.chunks) == 1 << 22
    assert set(node.chunks) == {chunk_ref(0, 0), chunk_ref(0, 1)}


def test_all_layers_together_have_no_more_chunks_than_an_image_has_room_for(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([sparse_1_0([], 1 << 40, b"") + END] * 5)
    with pytest.raises(ImageTooLarge, match="of all layers have more than 16777216 chunks"):
        convert_layout(tmp_path / "in", tmp_path / "out")


def test_a_layer_of_umoci_insert_needs_no_end(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([member(b"opt/app", b"code", padded=False)])
    convert_layout(tmp_path / "in", tmp_path / "out")
    assert Published(tmp_path / "out").shown()[b"/opt/app"].content == b"code"


def test_a_file_whose_path_is_taken_lives_on_under_its_other_name(tmp_path: Path) -> None:
    raw = member(b"a", b"first") + member(b"b", kind=b"1", link=b"a") + member(b"a", b"second") + END
    Layout(tmp_path / "in").add_image([raw])
    convert_layout(tmp_path / "in", tmp_path / "out")
    shown = Published(tmp_path / "out").shown()
    assert (shown[b"/a"].content, shown[b"/b"].content) == (b"second", b"first")


def test_xattrs_without_a_place_are_counted(tmp_path: Path) -> None:
    raw = pax((b"SCHILY.xattr.system.nfs4_acl", b"x")) + member(b"f", b"body") + END
    Layout(tmp_path / "in").add_image([raw])
    report = convert_layout(tmp_path / "in", tmp_path / "out")
    assert report.images[0].dropped_xattrs == {"system.nfs4_acl": 1}


def test_the_commands_program_is_on_the_hot_list(tmp_path: Path) -> None:
    layer = layer_tar(
        [
            tree(
                directory(b"bin", symlink(b"app", b"../opt/app"), file(b"sh", b"shell", mode=0o755)),
                directory(b"opt", file(b"app", b"#!/bin/sh\nexit", mode=0o755), file(b"unused", b"u")),
            )
        ]
    )
    Layout(tmp_path / "in").add_image([layer], config={"Entrypoint": ["app"], "Env": ["PATH=/sbin:/bin"]})
    report = convert_layout(tmp_path / "in", tmp_path / "out")
    image = Published(tmp_path / "out")
    hot = [image.path_of(nid) for nid in image.bootstrap.prefetch_nids()]
    assert hot == [b"/opt/app", b"/bin/sh"]
    assert report.images[0].hot_files == 2


def test_a_converted_image_is_copied_and_said_to_be_one(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    first = convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    source = open_source(parse_reference(f"oci:{tmp_path / 'out'}:lazy"), RegistryOptions())
    destination = open_destination(parse_reference(f"oci:{tmp_path / 'copy'}:lazy"), RegistryOptions())
    report = convert(source, destination, tag="lazy", options=ConvertOptions())
    assert report.already_converted
    assert report.digest == first.digest
    assert Published(tmp_path / "copy").findings() == []


def entry(image: dict[str, Any], architecture: str, **more: Any) -> dict[str, Any]:
    return {**image, "platform": {"os": "linux", "architecture": architecture}, **more}


@pytest.fixture
def two_platforms(tmp_path: Path) -> Path:
    layout = Layout(tmp_path / "in")
    amd = layout.add_image(LAYERS, tag=None)
    arm = layout.add_image(LAYERS[:1], tag=None, document={"architecture": "arm64"})
    note = layout.add_image([END], tag=None)
    attestation = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    layout.add_index([entry(amd, "amd64"), entry(arm, "arm64"), entry(note, "unknown", **attestation)])
    return tmp_path / "in"


def test_all_platforms_become_an_index_without_attestations(two_platforms: Path, tmp_path: Path) -> None:
    report = convert_layout(two_platforms, tmp_path / "out", replace(SMALL, every_platform=True))
    assert (len(report.images), report.skipped, report.media_type) == (2, 1, MediaType.OCI_INDEX)
    index = json.loads((tmp_path / "out/blobs/sha256" / report.digest[7:]).read_bytes())
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    for one in index["manifests"]:
        assert Published(tmp_path / "out", one["digest"]).findings() == []


def test_one_platform_of_an_index_can_be_chosen(two_platforms: Path, tmp_path: Path) -> None:
    options = replace(SMALL, platform=parse_platform("linux/arm64"))
    report = convert_layout(two_platforms, tmp_path / "out", options)
    assert report.images[0].platform == "linux/arm64"
    assert Published(tmp_path / "out").config["architecture"] == "arm64"
    with pytest.raises(NotFound, match="s390x"):
        convert_layout(two_platforms, tmp_path / "out", replace(SMALL, platform=parse_platform("s390x")))


def test_the_config_is_read_once_also_where_a_platform_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    source = open_source(parse_reference(f"oci:{tmp_path / 'in'}:app"), RegistryOptions())
    asked: list[str] = []
    kept = type(source).read_blob

    def counted(self: ImageSource, blob: Descriptor) -> Iterator[bytes]:
        asked.append(blob.media_type)
        return kept(self, blob)

    monkeypatch.setattr(type(source), "read_blob", counted)
    convert_layout(tmp_path / "in", tmp_path / "out", replace(SMALL, platform=parse_platform("amd64")))
    assert asked.count(MediaType.OCI_CONFIG) == 1


def refuse(tmp_path: Path, error: type[Exception], said: str) -> None:
    """Converting what is in `tmp_path/in` fails, and what is left then are at most blobs without a name."""
    work_dir = tmp_path / "work"
    work_dir.mkdir(exist_ok=True)
    with pytest.raises(error, match=said):
        convert_layout(tmp_path / "in", tmp_path / "out", replace(SMALL, work_dir=work_dir))
    if (tmp_path / "out").exists():
        assert json.loads((tmp_path / "out/index.json").read_text())["manifests"] == []
        assert any((tmp_path / "out/blobs/sha256").iterdir())
    assert list(work_dir.iterdir()) == []


def test_another_platform_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    with pytest.raises(SourceUnsupported, match=r"made for linux/amd64, asked for was linux/arm64"):
        convert_layout(tmp_path / "in", tmp_path / "out", replace(SMALL, platform=parse_platform("arm64")))


def test_a_truncated_layer_is_refused(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS, store=lambda raw: gzip.compress(raw)[:-20])
    refuse(tmp_path, LayerInvalid, "ends early")


def test_a_layer_with_other_content_than_the_config_says_is_refused(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS, store=lambda raw: gzip.compress(raw + bytes(512)))
    refuse(tmp_path, LayerInvalid, "the image's config says")


def test_compressed_layers_that_the_config_knows_by_their_stored_digest_are_refused(tmp_path: Path) -> None:
    wrong = {"rootfs": {"type": "layers", "diff_ids": [digest_of(gzipped(tar)) for tar in LAYERS]}}
    Layout(tmp_path / "in").add_image(LAYERS, document=wrong)
    refuse(tmp_path, LayerInvalid, "the image's config says")


@pytest.mark.parametrize(
    ("media_type", "store"), [(MediaType.OCI_LAYER_GZIP, gzipped), (MediaType.OCI_LAYER, bytes)]
)
def test_a_layer_that_was_spoilt_on_the_way_is_the_sources_fault(
    tmp_path: Path, media_type: str, store: Any
) -> None:
    layout = Layout(tmp_path / "in")
    image = layout.add_image(LAYERS, media_type=media_type, store=store)
    manifest = json.loads(layout.blob(image["digest"]).read_text())
    path = layout.blob(manifest["layers"][0]["digest"])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw)
    refuse(tmp_path, DigestMismatch, manifest["layers"][0]["digest"][7:])


def test_the_last_layers_failure_stops_the_first(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([*LAYERS, b"no tar" * 200])
    refuse(tmp_path, LayerInvalid, "checksum")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"media_type": "application/vnd.example.layer"}, "vnd.example.layer"),
        ({"document": {"os": "windows"}}, "made for 'windows'"),
        ({"document": {"rootfs": {}}}, "no list rootfs.diff_ids"),
        ({"document": {"rootfs": {"diff_ids": ["sha256:0"]}}}, "names 1 layers, its manifest 3"),
    ],
)
def test_what_is_no_linux_image_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    Layout(tmp_path / "in").add_image(LAYERS, **change)
    refuse(tmp_path, SourceUnsupported, re.escape(said))


def test_an_artifact_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    config = layout.put(b"{}", "application/vnd.oci.empty.v1+json")
    document = {"schemaVersion": 2, "mediaType": MediaType.OCI_MANIFEST, "config": config, "layers": []}
    layout.add_document(document, "app")
    refuse(tmp_path, SourceUnsupported, "its config is of type")


def test_a_work_dir_that_is_not_there_is_named(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    with pytest.raises(SpoolFailed, match="nowhere"):
        convert_layout(tmp_path / "in", tmp_path / "out", replace(SMALL, work_dir=tmp_path / "nowhere"))


def test_a_full_disk_says_what_has_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = os.write, 200_000

    def write(descriptor: int, piece: memoryview) -> int:
        nonlocal room
        if room < len(piece):
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= len(piece)
        return real(descriptor, piece)

    Layout(tmp_path / "in").add_image(LAYERS)
    monkeypatch.setattr("builder.scratch.os.write", write)
    refuse(tmp_path, SpoolFull, r"no space left \(.* free\) behind .* MB of .*; the unpacked layers and ")


CHILD = """
import sys
from pathlib import Path
from builder.convert_options import ConvertOptions
from tests.builder.layouts import convert_layout
convert_layout(Path(sys.argv[1]), Path(sys.argv[2]), ConvertOptions(jobs=2))
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def peak_memory(source: Path, destination: Path) -> int:
    """KiB that converting takes in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(destination)],
        stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_memory_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    pattern = RANDOM.randbytes(1 << 20)
    peaks = {}
    for megabytes in (8, 50):
        content = b"".join(pattern[at:] + pattern[:at] for at in range(megabytes))
        Layout(tmp_path / f"{megabytes}").add_image([member(b"big", content) + END], store=bytes)
        peaks[megabytes] = peak_memory(tmp_path / f"{megabytes}", tmp_path / f"{megabytes}-out")
    # Most of it is the interpreter with its libraries, and the units in flight.
    assert peaks[50] < peaks[8] + 24 * 1024
    assert peaks[50] < 120 * 1024
