"""`nopull diff` tells what two versions of an image have in common and what only one of them has."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

import nopull
from builder.difference import Counted, difference
from launch.images.chunk_tables import read_tables
from rafs.bootstrap import Bootstrap
from tests.builder.layouts import Layout, convert_layout
from tests.builder.test_convert import SMALL
from tests.support.images import image_of
from tests.support.trees import Entry, directory, file, hardlink, layer_tar, symlink, tree

LONG = random.Random(4).randbytes(3 * 65536)
FIRST = tree(
    directory(b"d", file(b"long", LONG), file(b"mode", b"m"), symlink(b"link", b"a")),
    file(b"gone", b"gone"),
    file(b"moved", b"moved"),
    file(b"one", b"1"),
    file(b"two", b"1"),
)
SECOND = tree(
    directory(
        b"d", file(b"long", LONG[:-5] + b"other"), file(b"mode", b"m", mode=0o600), symlink(b"link", b"b")
    ),
    file(b"\xff", b"moved"),
    file(b"one", b"1"),
    hardlink(b"two", b"/one"),
)


@pytest.fixture
def diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(first: Entry, second: Entry, *options: str, chunk_size: int = SMALL.chunk_size) -> str:
        for name, root, size in (("a", first, SMALL.chunk_size), ("b", second, chunk_size)):
            Layout(tmp_path / f"{name}-in").add_image([layer_tar([root])])
            convert_layout(tmp_path / f"{name}-in", tmp_path / name, replace(SMALL, chunk_size=size))
        capsys.readouterr()
        images = [f"oci:{tmp_path / name}:lazy" for name in "ab"]
        assert nopull.main(["diff", "--root", str(tmp_path / "root"), *options, *images]) == 0
        return capsys.readouterr().out

    return run


def test_paths_contents_and_chunks_are_told_apart(diff: Any) -> None:
    found = json.loads(diff(FIRST, SECOND, "--json", "--files"))
    assert found["added"] == ["/%FF"]
    assert found["removed"] == ["/gone", "/moved"]
    assert found["changed"] == {
        "/d/link": ["target"],
        "/d/long": ["content"],
        "/d/mode": ["mode"],
        "/two": ["links"],
    }
    assert found["paths"] == {"same": 3, "added": 1, "removed": 2, "changed": 4}
    assert found["chunks"] == {
        "shared": {"count": 5, "bytes": 2 * 65536 + 1 + 5 + 1},
        "added": {"count": 1, "bytes": 65536},
        "removed": {"count": 2, "bytes": 65536 + 4},
    }
    assert found["files"]["added"] == {"count": 1, "bytes": len(LONG)}
    assert found["blobs"]["shared"]["count"] == 0
    assert found["comparable"]


def test_an_image_does_not_differ_from_itself(diff: Any) -> None:
    lines = diff(FIRST, FIRST, "--files", "--platform", "linux/amd64").splitlines()
    assert lines[0] == "paths: 9 the same, 0 added, 0 removed, 0 changed"
    assert [line.partition(":")[0] for line in lines] == ["paths", "contents", "chunks", "blobs"]
    assert all("0 (0 B) added, 0 (0 B) removed" in line for line in lines[1:])


def test_paths_are_listed_for_people(diff: Any) -> None:
    lines = diff(FIRST, SECOND, "--files").splitlines()
    assert lines[:4] == ["~ /d/link (target)", "~ /d/long (content)", "~ /d/mode (mode)", "- /gone"]
    assert "+ /%FF" in lines


def test_a_name_can_neither_forge_a_line_nor_pass_for_another(diff: Any) -> None:
    names = [b"\x1b[31mX\n- etc", b"\xff", b"\\xff", b"%FF", "\u202e".encode()]
    second = tree(*(file(name, b"1") for name in names))
    shown = ["%1B[31mX%0A-%20etc", "%FF", "\\xff", "%25FF", "%E2%80%AE"]
    lines = diff(tree(), second, "--files").splitlines()
    assert sorted(line for line in lines if line[0] in "+-") == sorted(f"+ /{name}" for name in shown)
    listed = [line[2:] for line in lines if line[0] == "+"]
    assert [unquote_to_bytes(path) for path in listed] == sorted(b"/" + name for name in names)


def test_images_cut_otherwise_are_said_to_be_so(diff: Any) -> None:
    assert "different sizes" in diff(FIRST, FIRST, chunk_size=128 << 10)


def test_an_image_without_chunks_has_none_that_are_cut_otherwise(diff: Any) -> None:
    assert "different sizes" not in diff(tree(), FIRST, chunk_size=128 << 10)


def test_a_file_of_many_names_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.difference._AT_ONCE", 3)
    names = [hardlink(b"n%d" % number, b"/file") for number in range(50)]
    image = image_of(tree(file(b"file", LONG), *names), chunk_size=4096)
    bootstrap = Bootstrap(image.bootstrap)
    forms = {blob.id: blob.cache_form() for blob in image.blobs}
    blobs = read_tables(bootstrap, forms, {})
    looked = []
    extents = Bootstrap.extents

    def counted(self: Bootstrap, *arguments: Any) -> Any:
        looked.extend(found := extents(self, *arguments))
        return found

    monkeypatch.setattr(Bootstrap, "extents", counted)
    found = difference(bootstrap, blobs, bootstrap, blobs)
    assert found.same == 52 and not found.changed
    assert len(looked) == 2 * len(LONG) // 4096
    assert found.chunks.shared == Counted(len(LONG) // 4096, len(LONG))
