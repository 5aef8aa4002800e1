"""The demo image's layers say exactly what changed, and the same input gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from bench.demo_image import (
    HIDDEN,
    LINKED,
    build_demo_image,
    cache_directory,
    remove_leftovers,
    write_app_layer,
)
from bench.oci_directory import write_oci_directory
from bench.read_start import demo_modules
from bench.tar_difference import clamp_times, write_difference


def make_tar(path: Path, entries: dict[str, str | None]) -> Path:
    """Write files (name: text) and directories (name: None), in the given order."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in entries.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if text is None else tarfile.REGTYPE
            member.size = len(text or "")
            tar.addfile(member, io.BytesIO((text or "").encode()))
    return path


LOWER: dict[str, str | None] = {
    "./": None,
    "./a": None,
    "./a/same": "1",
    "./a/old": "1",
    "./gone": None,
    "./gone/x": "1",
}
UPPER: dict[str, str | None] = {
    "./": None,
    "./a": None,
    "./a/same": "1",
    "./a/old": "2",
    "./b": None,
    "./b/new": "3",
}


def test_difference_names_changes_their_folders_and_what_vanished(tmp_path: Path) -> None:
    lower, upper = make_tar(tmp_path / "l.tar", LOWER), make_tar(tmp_path / "u.tar", UPPER)
    write_difference(lower, upper, tmp_path / "d.tar")
    with tarfile.open(tmp_path / "d.tar") as layer:
        assert [member.name for member in layer] == [".", "./a", "./a/old", "./b", "./b/new", ".wh.gone"]


def test_difference_of_equal_trees_is_empty(tmp_path: Path) -> None:
    lower = make_tar(tmp_path / "l.tar", LOWER)
    write_difference(lower, lower, tmp_path / "d.tar")
    with tarfile.open(tmp_path / "d.tar") as layer:
        assert layer.getmembers() == []


def test_times_later_than_the_latest_become_the_latest_and_others_stay(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, mtime in (("old", 5.0), ("new", 1000.5)):
            member = tarfile.TarInfo(name)
            member.mtime = mtime
            tar.addfile(member)
    clamp_times(tmp_path / "in.tar", tmp_path / "out.tar", latest=100)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert {member.name: member.mtime for member in tar} == {"old": 5, "new": 100}


def test_app_layer_links_to_and_hides_files_of_the_layers_below(tmp_path: Path) -> None:
    write_app_layer(tmp_path / "app.tar", make_tar(tmp_path / "below.tar", {LINKED: "program"}))
    with tarfile.open(tmp_path / "app.tar") as layer:
        members = {member.name: member for member in layer}
    assert members["opt/app/pydoc"].islnk()
    assert members["opt/app/pydoc"].linkname == LINKED
    assert "etc/.wh.motd" in members
    assert HIDDEN == "etc/motd"


def test_program_imports_what_the_demo_claims() -> None:
    modules = demo_modules()
    assert len(set(modules)) == len(modules) >= 100
    assert {"ssl", "sqlite3", "asyncio", "ctypes"} <= set(modules)


def test_layout_digests_are_those_of_its_blobs_and_the_same_each_time(tmp_path: Path) -> None:
    layer = make_tar(tmp_path / "one.tar", UPPER)
    written = []
    for name in ("first", "second"):
        write_oci_directory(
            tmp_path / name,
            name="n",
            layers=[layer],
            config={"Cmd": ["/x"]},
            architecture="amd64",
            created="2023",
        )
        written.append(
            {blob.name: blob.read_bytes() for blob in (tmp_path / name / "blobs/sha256").iterdir()}
        )
    assert written[0] == written[1]
    assert all(hashlib.sha256(raw).hexdigest() == name for name, raw in written[0].items())
    index = json.loads((tmp_path / "first/index.json").read_bytes())
    manifest = json.loads(written[0][index["manifests"][0]["digest"].removeprefix("sha256:")])
    config = json.loads(written[0][manifest["config"]["digest"].removeprefix("sha256:")])
    plain = gzip.decompress(written[0][manifest["layers"][0]["digest"].removeprefix("sha256:")])
    assert plain == layer.read_bytes()
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(plain).hexdigest()}"]


def test_leftovers_of_a_dead_build_are_removed_and_those_of_a_live_one_kept(tmp_path: Path) -> None:
    dead, live = (
        tmp_path / "building-4194305-x",
        tmp_path / "building-1-x",
    )  # the first is above any process id
    dead.mkdir()
    live.mkdir()
    remove_leftovers(tmp_path)
    assert (dead.exists(), live.exists()) == (False, True)


@pytest.mark.system
@pytest.mark.timeout(900)  # the first time it downloads packages
def test_demo_image_has_three_layers_and_ordinary_contents() -> None:
    image = build_demo_image(cache_directory(), tell=print)
    index = json.loads((image.layout / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((image.layout / "blobs/sha256" / digest).read_bytes())
    names: list[set[str]] = []
    invalidation = set()
    for layer in manifest["layers"]:
        with tarfile.open(image.layout / "blobs/sha256" / layer["digest"].removeprefix("sha256:")) as tar:
            names.append({member.name.removeprefix("./") for member in tar})
            compiled = [member for member in tar if member.name.endswith(".pyc")]
            for member in compiled:
                reader = tar.extractfile(member)
                assert reader is not None
                invalidation.add(reader.read(8)[4:])
    base, python, app = names
    assert HIDDEN in base
    assert LINKED.removeprefix("./") in python & app
    assert not any(name.startswith("usr/share/doc/dpkg/") for name in python), "only what Python adds"
    assert "opt/app/main.py" in app
    assert invalidation == {bytes(4)}, "byte code is checked by its source's time, as on a Debian machine"
