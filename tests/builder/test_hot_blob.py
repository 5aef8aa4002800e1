"""What is named to prefetch lies together in a blob of its own, and the layers' blobs do not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import nopull
from builder.convert_options import ConvertOptions
from builder.hot.hot_blob import HotBlob
from tests.builder.layouts import Published, convert_layout
from tests.builder.test_convert import SMALL
from tests.builder.test_reuse import BASE, LAST, MIDDLE, OTHER_TOP, TOP, add_image, convert_beside

NAMED = replace(SMALL, prefetch=(b"/etc/conf", b"/lib"))


def files_in(image: Published, blob_index: int) -> list[bytes]:
    """The files that have chunks in a blob, by the first of them there."""
    found: dict[int, bytes] = {}
    for path, inode in image.bootstrap.walk():
        for extent in image.bootstrap.extents(inode) if inode.mode >> 12 == 8 else ():
            if extent.blob_index == blob_index:
                found.setdefault(extent.chunk_index, path)
    return [found[index] for index in sorted(found)]


def converted(tmp_path: Path, layers: list[bytes], options: ConvertOptions, name: str) -> Published:
    add_image(tmp_path / f"in-{name}", layers)
    convert_layout(tmp_path / f"in-{name}", tmp_path / name, options)
    image = Published(tmp_path / name)
    assert image.findings() == []
    return image


def test_named_files_are_copied_in_their_order_and_layers_stay_as_they_are(tmp_path: Path) -> None:
    plain = converted(tmp_path, [BASE, MIDDLE, TOP], SMALL, "plain")
    hot = converted(tmp_path, [BASE, MIDDLE, TOP], NAMED, "hot")
    plain_blobs = [layer["digest"] for layer in plain.manifest["layers"][:-1]]
    hot_blobs = [layer["digest"] for layer in hot.manifest["layers"][:-1]]
    assert hot_blobs[:-1] == plain_blobs
    assert f"sha256:{hot.bootstrap.blobs[-1].id}" == hot_blobs[-1]
    copied = list(dict.fromkeys(files_in(hot, len(hot.bootstrap.blobs) - 1)))
    assert copied == [b"/etc/conf", b"/lib/again", b"/app/main"], "what the command needs comes behind"
    assert {path: replace(shown, nid=0) for path, shown in hot.shown().items()} == {
        path: replace(shown, nid=0) for path, shown in plain.shown().items()
    }


@pytest.mark.parametrize(
    ("choice", "wishes", "blobs"),
    [
        (HotBlob.NONE, (b"/etc/conf",), 2),
        (HotBlob.NAMED, (b"/etc/conf",), 3),
        (HotBlob.NAMED, (), 2),
        (HotBlob.ALL, (), 3),
    ],
)
def test_a_blob_is_made_when_it_is_chosen(
    tmp_path: Path, choice: HotBlob, wishes: tuple[bytes, ...], blobs: int
) -> None:
    options = replace(SMALL, prefetch=wishes, hot_blob=choice)
    image = converted(tmp_path, [BASE, OTHER_TOP], options, "out")
    assert len(image.manifest["layers"]) == blobs + 1
    if blobs == 3:
        assert b"/app/main" in files_in(image, len(image.bootstrap.blobs) - 1), "what the command needs"


@pytest.mark.parametrize("wish", [b"/", b"/last"], ids=["everything", "just a layer"])
def test_what_would_be_a_second_copy_of_all_is_not_made(tmp_path: Path, wish: bytes) -> None:
    image = converted(tmp_path, [BASE, LAST], replace(SMALL, prefetch=(wish,)), "out")
    assert len(image.bootstrap.blobs) == 2
    assert image.bootstrap.prefetch_nids()


@pytest.mark.parametrize(
    ("layers", "options"),
    [
        ([BASE, MIDDLE, OTHER_TOP], replace(SMALL, prefetch=(b"/etc/conf",))),
        ([BASE, OTHER_TOP], replace(SMALL, prefetch=(b"/app/main", b"/etc"))),
    ],
    ids=["of lower layers", "all of the top"],
)
def test_the_next_version_takes_the_layers_and_the_same_hot_blob(
    tmp_path: Path, layers: list[bytes], options: ConvertOptions
) -> None:
    add_image(tmp_path / "v1", layers)
    convert_beside(tmp_path / "v1", tmp_path / "out", "v1", options)
    add_image(tmp_path / "v2", [*layers, LAST], without=(layers[0],))
    report = convert_beside(tmp_path / "v2", tmp_path / "out", "v2", options)
    assert report.images[0].layers[0].reused
    fresh = converted(tmp_path, [*layers, LAST], options, "fresh")
    assert report.digest == fresh.digest
    other = converted(tmp_path, [*layers, LAST], SMALL, "without")
    plain = convert_beside(tmp_path / "in-without", tmp_path / "out", "v3", SMALL)
    assert plain.digest == other.digest, "a hot blob of an earlier image is not referred to"


def test_the_command_has_a_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_image(tmp_path / "in", [BASE, TOP])
    for choice, blobs in (("none", 2), ("named", 3)):
        source, destination = f"oci:{tmp_path / 'in'}:app", f"oci:{tmp_path / choice}:lazy"
        command = ["convert", "--prefetch", "/etc/conf", "--hot-blob", choice, source, destination]
        assert nopull.main(command) == 0
        assert len(Published(tmp_path / choice).manifest["layers"]) == blobs + 1
    capsys.readouterr()
