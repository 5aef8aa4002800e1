"""`nopull check` finds what is wrong with an image where it lies, names it, and exits with 6."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import nopull
from builder.image_documents import blob_descriptor
from launch.errors import ImageNotConverted
from launch.images.document_check import check_blob_layer
from launch.images.image_check import CHUNK_FINDINGS, ImageCheck
from launch.images.object_digest import ObjectDigest
from launch.images.verdict import Verdict
from rafs.bootstrap import Bootstrap
from rafs.records import TAR_HEADER, TOC_ENTRY, TocEntry
from registry_client.digest import digest_of
from registry_client.errors import NotFound
from registry_client.media_type import MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch import published
from tests.support.bootstrap_edits import edited
from tests.support.images import Image, image_of
from tests.support.trees import directory, file, symlink, tree


def some_image() -> Image:
    noise = random.Random(1)
    return image_of(
        tree(
            directory(b"bin", file(b"program", noise.randbytes(300_000), mode=0o755)),
            file(b"text", b"some text\n" * 30_000),
            symlink(b"link", b"text"),
        )
    )


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Path]:
    """Publishes an image, by default a sound one, as `oci:` directory and returns that."""

    def make(image: Image | None = None, **how: object) -> Path:
        layout = tmp_path / "layout"
        reference = f"oci:{layout}:v1"
        published.publish(image or some_image(), reference, tmp_path, complete=True, **how)  # type: ignore[arg-type]
        return layout

    return make


def checked(layout: Path, *, deep: bool = False) -> Verdict:
    looking = ImageCheck(parse_reference(f"oci:{layout}:v1"), RegistryOptions())
    try:
        looking.shallow()
        if deep:
            read: list[int] = []
            looking.deep(read.append)
            assert sum(read) <= looking.bytes_to_read
        return looking.verdict
    finally:
        looking.close()


def rules(verdict: Verdict) -> set[str]:
    return {finding.rule for finding in verdict.findings}


def blob_file(layout: Path) -> Path:
    """The image's one blob, which is its largest object."""
    return max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def manifest(layout: Path) -> dict[str, dict[str, str]]:
    index = json.loads((layout / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"].partition(":")[2]
    document: dict[str, dict[str, str]] = json.loads((layout / "blobs/sha256" / digest).read_bytes())
    return document


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def test_a_sound_image_has_no_findings_and_every_chunk_is_read(publish: Callable[..., Path]) -> None:
    verdict = checked(publish(), deep=True)
    assert verdict.findings == []
    assert verdict.chunks_verified == verdict.chunks > 5
    assert verdict.blobs == 1
    assert verdict.inodes == 5


def test_a_wrong_byte_of_a_chunk_is_found_by_the_deep_check_only(publish: Callable[..., Path]) -> None:
    layout = publish()
    flip(blob_file(layout), 1000)
    assert checked(layout).sound
    verdict = checked(layout, deep=True)
    assert rules(verdict) == {"chunk", "blob-digest"}
    assert blob_file(layout).name in verdict.findings[0].where
    assert 0 < verdict.chunks_verified < verdict.chunks


@pytest.mark.parametrize("place", ["tar header behind the chunks", "tar header of the chunk digests"])
def test_a_wrong_byte_beside_the_chunks_is_found_by_the_deep_check(
    publish: Callable[..., Path], place: str
) -> None:
    image = some_image()
    (blob,) = image.blobs
    layout = publish(image)
    path = blob_file(layout)
    if place == "tar header behind the chunks":
        flip(path, blob.ci_offset - 300)
    else:
        flip(path, path.stat().st_size - 1030)
    assert checked(layout).sound
    verdict = checked(layout, deep=True)
    assert rules(verdict) == {"blob-digest"}
    assert path.name in verdict.findings[0].where
    assert verdict.chunks_verified == verdict.chunks


def test_a_wrong_byte_of_a_blob_that_no_file_uses_is_found_by_the_deep_check(
    publish: Callable[..., Path],
) -> None:
    layout = publish(with_unused_blob(some_image()))
    assert checked(layout, deep=True).sound
    unused = layout / "blobs/sha256" / hashlib.sha256(UNUSED).hexdigest()
    flip(unused, 3)
    assert checked(layout).sound
    (finding,) = checked(layout, deep=True).findings
    assert (finding.rule, finding.where) == ("blob-digest", f"blob {unused.name}")


def test_an_object_is_hashed_whole_whatever_is_read_of_it() -> None:
    raw = random.Random(3).randbytes(10_000)

    class Blobs:
        def object_size(self, blob_id: str) -> int:
            return len(raw)

        def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
            yield from (raw[at : min(at + 700, offset + size)] for at in range(offset, offset + size, 700))

    for stretches in (
        [],
        [(0, 10_000)],
        [(500, 800), (900, 100), (900, 2000), (0, 50), (2500, 1), (7000, 3000)],
    ):
        told: list[int] = []
        digest = ObjectDigest(Blobs(), "id", told.append)
        for offset, size in stretches:
            assert digest.read(offset, size) == raw[offset : offset + size]
        assert digest.finish() == hashlib.sha256(raw).hexdigest()
        assert sum(told) == len(raw)


def test_a_rotten_blob_does_not_bury_the_rest(publish: Callable[..., Path]) -> None:
    noise = random.Random(2)
    files = [file(b"f%d" % number, noise.randbytes(70_000)) for number in range(2 * CHUNK_FINDINGS)]
    layout = publish(image_of(tree(*files), chunk_size=64 << 10, batch_size=64 << 10))
    rotten = blob_file(layout)
    content = rotten.read_bytes()
    used = 70_000 * len(files)
    rotten.write_bytes(bytes(used) + content[used:])
    assert len(checked(layout, deep=True).findings) == CHUNK_FINDINGS + 1


@pytest.mark.parametrize("damage", ["missing", "short", "long", "tables"])
def test_a_blob_that_is_not_what_the_manifest_says_is_found(
    publish: Callable[..., Path], damage: str
) -> None:
    layout = publish()
    blob = blob_file(layout)
    content = blob.read_bytes()
    if damage == "missing":
        blob.unlink()
    elif damage == "short":
        blob.write_bytes(content[:-1])
    elif damage == "long":
        blob.write_bytes(content + b"x")
    else:
        flip(blob, len(content) - 100)
    verdict = checked(layout)
    assert rules(verdict) == {"blob"}
    assert blob.name in verdict.findings[0].where


UNUSED = b"a blob that no file of the image uses"


def with_unused_blob(image: Image) -> Image:
    return replace(image, objects={**image.objects, hashlib.sha256(UNUSED).hexdigest(): UNUSED})


@pytest.mark.parametrize("damage", ["none", "missing", "short"])
@pytest.mark.parametrize("bootstrap", ["sound", "damaged"])
def test_a_blob_that_no_file_uses_must_be_there_too(
    publish: Callable[..., Path], damage: str, bootstrap: str
) -> None:
    layout = publish(with_unused_blob(some_image()))
    unused = layout / "blobs/sha256" / hashlib.sha256(UNUSED).hexdigest()
    if bootstrap == "damaged":
        flip(layout / "blobs/sha256" / manifest(layout)["layers"][-1]["digest"].partition(":")[2], 50)  # type: ignore[index]
    if damage == "missing":
        unused.unlink()
    elif damage == "short":
        unused.write_bytes(UNUSED[:-1])
    wanted = ["blob"] if damage != "none" else []
    wanted += ["bootstrap-layer"] if bootstrap == "damaged" else []
    assert [finding.rule for finding in checked(layout).findings] == wanted


def test_a_blob_that_others_would_take_for_a_tar_is_found() -> None:
    right = blob_descriptor("a" * 64, 5)
    assert check_blob_layer(right) == []
    for wrong, rule in (
        (replace(right, media_type=MediaType.OCI_LAYER_GZIP), "layer-type"),
        (replace(right, annotations={}), "layer-annotation"),
    ):
        assert [finding.rule for finding in check_blob_layer(wrong)] == [rule]


def test_a_damaged_bootstrap_layer_is_found(publish: Callable[..., Path]) -> None:
    layout = publish()
    layers = manifest(layout)["layers"]
    flip(layout / "blobs/sha256" / layers[-1]["digest"].partition(":")[2], 50)  # type: ignore[index]
    assert rules(checked(layout)) == {"bootstrap-layer"}


def test_a_damaged_config_is_found(publish: Callable[..., Path]) -> None:
    layout = publish()
    flip(layout / "blobs/sha256" / manifest(layout)["config"]["digest"].partition(":")[2], 3)
    assert rules(checked(layout)) == {"config"}


def test_a_config_that_counts_other_layers_is_found(
    publish: Callable[..., Path],
) -> None:
    verdict = checked(publish(config=published.CONFIG | {"rootfs": {"diff_ids": ["sha256:a"]}}))
    assert rules(verdict) == {"config"}
    assert "1 diff_ids for 2 layers" in verdict.findings[0].message


def test_a_diff_id_that_is_not_the_layers_is_found(publish: Callable[..., Path]) -> None:
    layout = publish()
    config = layout / "blobs/sha256" / manifest(layout)["config"]["digest"].partition(":")[2]
    right = json.loads(config.read_bytes())["rootfs"]["diff_ids"]
    for number, layer in enumerate(manifest(layout)["layers"]):
        wrong = [*right]
        wrong[number] = digest_of(b"something else")
        other = publish(config=published.CONFIG | {"rootfs": {"type": "layers", "diff_ids": wrong}})
        (finding,) = checked(other).findings
        assert (finding.rule, finding.where) == ("diff-id", f"layer {layer['digest']}")  # type: ignore[index]
        assert wrong[number] in finding.message and right[number] in finding.message


def test_a_bootstrap_that_breaks_its_own_rules_is_found(publish: Callable[..., Path]) -> None:
    image = some_image()
    broken = bytearray(image.bootstrap)
    broken[1024] ^= 0xFF  # the superblock's magic
    verdict = checked(publish(replace(image, bootstrap=bytes(broken))))
    assert verdict.findings
    assert verdict.inodes == 0


def test_what_is_no_image_of_ours_is_refused_and_not_judged(
    publish: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ImageNotConverted):
        checked(publish(annotated=False))
    with pytest.raises(NotFound):
        checked(tmp_path / "absent")


def test_a_bare_bootstrap_is_checked_with_the_blobs_beside_it(tmp_path: Path) -> None:
    image = some_image()
    (tmp_path / "image.boot").write_bytes(image.bootstrap)
    for name, content in image.objects.items():
        (tmp_path / name).write_bytes(content)
    looking = ImageCheck(parse_reference(f"rafs:{tmp_path / 'image.boot'}"), RegistryOptions())
    looking.shallow()
    looking.deep(lambda _: None)
    assert looking.verdict.sound
    assert looking.verdict.chunks_verified > 5


@pytest.mark.parametrize("verb", ["check", "inspect"])
@pytest.mark.parametrize("content", [b"root:x:0:0", b"root:x:0:0\n" * 500])
def test_a_file_that_is_no_image_is_named(
    verb: str, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(content)
    assert nopull.main([verb, f"rafs:{path}"]) == 6
    assert f"nopull: {path}: " in capfd.readouterr().err


def test_the_command_lists_findings_and_exits_with_6(
    publish: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    layout = publish()
    assert nopull.main(["check", f"oci:{layout}:v1"]) == 0
    assert ": sound; " in capfd.readouterr().out
    flip(blob_file(layout), 1000)
    assert nopull.main(["check", "--deep", "--json", f"oci:{layout}:v1"]) == 6
    document = json.loads(capfd.readouterr().out)
    assert document["sound"] is False
    assert document["findings"][0]["rule"] == "chunk"
    assert nopull.main(["check", "--deep", f"oci:{layout}:v1"]) == 6
    assert "[chunk]" in capfd.readouterr().out


def with_contents(where: Path, change: Callable[[bytearray, dict[bytes, TocEntry]], object]) -> Verdict:
    """What is found of a bare image after *change*; the digest of the table is made to fit."""
    image = some_image()
    (record,) = Bootstrap(image.bootstrap).blobs
    raw = bytearray(image.objects[record.id])
    table = slice(len(raw) - record.toc_size, len(raw) - TAR_HEADER.size)
    entries = {entry.name.rstrip(b"\0"): entry for entry in TOC_ENTRY.unpack_all(bytes(raw[table]))}
    change(raw, entries)
    raw[table] = b"".join(map(TOC_ENTRY.pack, entries.values()))
    digest = hashlib.sha256(raw[table.start :]).digest()
    (where / "image.boot").write_bytes(edited(image.bootstrap, lambda e: e.blob(0, toc_digest=digest)))
    (where / record.id).write_bytes(raw)
    looking = ImageCheck(parse_reference(f"rafs:{where / 'image.boot'}"), RegistryOptions())
    try:
        looking.shallow()
        return looking.verdict
    finally:
        looking.close()


def test_a_table_of_contents_is_as_the_blob_table_says(tmp_path: Path) -> None:
    assert with_contents(tmp_path, lambda raw, entries: None).sound


@pytest.mark.parametrize(
    ("section", "changed", "said"),
    [
        (b"blob.meta.header", {"compressed_offset": 0}, "of blob.meta.header at 0, the blob table"),
        (b"blob.digest", {"size": 1 << 40}, "for 1099511627776 of blob.digest"),
        (b"blob.digest", {"name": b"image.boot"}, "has no blob.digest"),
        (b"blob.digest", {"digest": b"x" * 32}, "section blob.digest has sha256"),
        (b"blob.meta.header", {"digest": b"x" * 32}, "section blob.meta.header has sha256"),
    ],
)
def test_a_table_of_contents_that_misplaces_a_section_is_found(
    tmp_path: Path, section: bytes, changed: dict[str, object], said: str
) -> None:
    def change(_: bytearray, entries: dict[bytes, TocEntry]) -> None:
        entries[section] = entries[section]._replace(**changed)  # type: ignore[arg-type]

    (finding,) = with_contents(tmp_path, change).findings
    assert finding.rule == "toc"
    assert said in finding.message


def test_a_table_of_contents_with_sections_over_each_other_is_found(tmp_path: Path) -> None:
    def change(_: bytearray, entries: dict[bytes, TocEntry]) -> None:
        entries[b"image.blob"] = entries[b"blob.digest"]._replace(name=b"more")

    (finding,) = with_contents(tmp_path, change).findings
    assert finding.rule == "toc"


def test_chunk_digests_in_a_blob_that_are_not_the_bootstraps_are_found(tmp_path: Path) -> None:
    def change(raw: bytearray, entries: dict[bytes, TocEntry]) -> None:
        entry = entries[b"blob.digest"]
        section = slice(entry.compressed_offset, entry.compressed_offset + entry.compressed_size)
        raw[section.start] ^= 1
        entries[b"blob.digest"] = entry._replace(digest=hashlib.sha256(raw[section]).digest())

    (finding,) = with_contents(tmp_path, change).findings
    assert finding.rule == "toc"
    assert "chunk 0 has another digest in the object than in the bootstrap" in finding.message
