"""`nopull check --against` names every way in which a converted image differs from its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nopull
from builder.compare import FINDINGS_LIMIT
from launch.images.image_check import ImageCheck
from tests.builder.layouts import Layout, Published, convert_layout
from tests.builder.tar_bytes import END, member, pax
from tests.builder.test_convert import LAYERS, SMALL
from tests.support.trees import layer_tar, tree


def check(
    capsys: pytest.CaptureFixture[str], converted: Path, ordinary: Path, *options: str
) -> tuple[int, dict[str, object], list[tuple[str, str]]]:
    """Exit code, verdict and (rule, where) of each finding."""
    capsys.readouterr()
    against = f"oci:{ordinary}:app"
    code = nopull.main(["check", f"oci:{converted}:lazy", "--against", against, "--json", *options])
    verdict = json.loads(capsys.readouterr().out)
    return code, verdict, [(one["rule"], one["where"]) for one in verdict["findings"]]


def against(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, converted: bytes, ordinary: bytes
) -> list[tuple[str, str]]:
    """The findings when a layer was converted and another one is the ordinary image."""
    Layout(tmp_path / "in").add_image([converted + END])
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    Layout(tmp_path / "other").add_image([ordinary + END])
    code, _, findings = check(capsys, tmp_path / "out", tmp_path / "other")
    assert code == (6 if findings else 0)
    return findings


def test_an_image_equals_its_source_whatever_its_layers_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    code, verdict, findings = check(capsys, tmp_path / "out", tmp_path / "in")
    assert (code, findings) == (0, [])
    assert verdict["paths_compared"] == 7
    assert verdict["bytes_compared"] == 2 * 600_000 + 3
    assert verdict["chunks_verified"] == verdict["chunks"]
    assert str(verdict["against"]).startswith("sha256:")


FILE = member(b"f", b"some bytes", mode=0o640, uid=1, gid=2, mtime=3)


@pytest.mark.parametrize(
    ("converted", "ordinary", "expected"),
    [
        (FILE, FILE, []),
        (FILE, member(b"f", b"some bytez", mode=0o640, uid=1, gid=2, mtime=3), [("against-content", "'/f'")]),
        (FILE, member(b"f", b"some", mode=0o640, uid=1, gid=2, mtime=3), [("against-size", "'/f'")]),
        (FILE, member(b"f", b"some bytes", mode=0o4640, uid=1, gid=2, mtime=3), [("against-mode", "'/f'")]),
        (FILE, member(b"f", b"some bytes", mode=0o640, uid=1, gid=9, mtime=3), [("against-owner", "'/f'")]),
        (FILE, member(b"f", b"some bytes", mode=0o640, uid=1, gid=2, mtime=4), [("against-time", "'/f'")]),
        (FILE, pax((b"mtime", b"3.000000001")) + FILE, [("against-time", "'/f'")]),
        (FILE, pax((b"SCHILY.xattr.user.a", b"1")) + FILE, [("against-xattrs", "'/f'")]),
        (FILE, member(b"f", kind=b"5"), [("against-type", "'/f'")]),
        (FILE + member(b"extra"), FILE, [("against-extra", "'/extra'")]),
        (FILE, FILE + member(b"d", kind=b"5") + member(b"d/\xff"), [("against-missing", "'/d'")]),
        (
            member(b"l", kind=b"2", link=b"a"),
            member(b"l", kind=b"2", link=b"b"),
            [("against-target", "'/l'")],
        ),
        (
            member(b"n", kind=b"3", device=(1, 3)),
            member(b"n", kind=b"3", device=(1, 300)),
            [("against-device", "'/n'")],
        ),
        (
            FILE + member(b"g", kind=b"1", link=b"f"),
            FILE + member(b"g", b"some bytes", mode=0o640, uid=1, gid=2, mtime=3),
            [("against-links", "'/f'"), ("against-links", "'/g'"), ("against-links", "'/g'")],
        ),
    ],
)
def test_each_difference_has_its_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    converted: bytes,
    ordinary: bytes,
    expected: list[tuple[str, str]],
) -> None:
    assert against(capsys, tmp_path, converted, ordinary) == expected


def test_a_byte_that_rotted_in_a_blob_is_found_by_reading_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Layout(tmp_path / "in").add_image(LAYERS)
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    blob = max((tmp_path / "out/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    raw = bytearray(blob.read_bytes())
    raw[1000] ^= 1
    blob.write_bytes(raw)
    code, _, findings = check(capsys, tmp_path / "out", tmp_path / "in")
    assert code == 6
    assert [rule for rule, _ in findings] == ["chunk", "blob-digest"]


def test_what_a_container_would_run_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"Cmd": ["a"], "Entrypoint": ["b"], "Env": ["C=d"], "WorkingDir": "/e", "User": "f"}
    Layout(tmp_path / "in").add_image([FILE + END], config=config)
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    assert check(capsys, tmp_path / "out", tmp_path / "in")[2] == []
    for name in config:
        other = tmp_path / name
        Layout(other).add_image([FILE + END], config={**config, name: None})
        code, verdict, _ = check(capsys, tmp_path / "out", other)
        found = json.dumps(verdict["findings"])
        assert (code, found.count("against-config"), found.count(f"{name} is ")) == (6, 1, 1)


def test_a_broken_config_of_the_ordinary_image_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Layout(tmp_path / "in").add_image([FILE + END])
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    Layout(tmp_path / "other").add_image([FILE + END], config={"Cmd": 5})
    code, _, findings = check(capsys, tmp_path / "out", tmp_path / "other")
    assert (code, findings) == (6, [("against-config", "config")])


def test_files_that_could_not_be_compared_by_content_are_not_counted_as_if(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lower = member(b"in-lower", bytes(range(256)) * 9) + member(b"empty")
    Layout(tmp_path / "in").add_image([lower + END, FILE + member(b"l", kind=b"1", link=b"f") + END])
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    _, verdict, _ = check(capsys, tmp_path / "out", tmp_path / "in")
    assert (verdict["paths_compared"], verdict["files"], verdict["files_compared"]) == (5, 3, 3)
    blobs = Published(tmp_path / "out").manifest["layers"][:-1]
    (tmp_path / "out/blobs" / blobs[0]["digest"].replace(":", "/")).unlink()
    code, verdict, findings = check(capsys, tmp_path / "out", tmp_path / "in")
    assert (code, [rule for rule, _ in findings]) == (6, ["blob"])
    assert (verdict["paths_compared"], verdict["files"], verdict["files_compared"]) == (5, 3, 2)
    assert nopull.main(["check", f"oci:{tmp_path}/out:lazy", "--against", f"oci:{tmp_path}/in:app"]) == 6
    assert ", 2 of 3 files by content" in capsys.readouterr().out


@pytest.mark.parametrize("ordinary", ["absent", "out"])
def test_nothing_is_read_for_a_comparison_with_what_is_no_ordinary_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ordinary: str
) -> None:
    Layout(tmp_path / "in").add_image([FILE + END])
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    monkeypatch.setattr(ImageCheck, "shallow", None)
    monkeypatch.setattr(ImageCheck, "deep", None)
    tag = "lazy" if ordinary == "out" else "app"
    words = ["check", f"oci:{tmp_path}/out:lazy", "--against", f"oci:{tmp_path}/{ordinary}:{tag}"]
    assert nopull.main(words) == (6 if ordinary == "out" else 5)


def test_findings_are_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = b"".join(member(b"n%d" % number) for number in range(FINDINGS_LIMIT + 5))
    findings = against(capsys, tmp_path, many, FILE)
    assert len(findings) == FINDINGS_LIMIT + 1
    assert findings[-1][0] == "against-more"


def test_lost_xattrs_are_counted_and_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Layout(tmp_path / "in").add_image([pax((b"SCHILY.xattr.system.nfs4_acl", b"x")) + FILE + END])
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    code, verdict, _ = check(capsys, tmp_path / "out", tmp_path / "in")
    assert (code, verdict["dropped_xattrs"]) == (0, {"system.nfs4_acl": 1})


def test_a_converted_image_is_not_an_ordinary_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Layout(tmp_path / "in").add_image([layer_tar([tree()])])
    convert_layout(tmp_path / "in", tmp_path / "out", SMALL)
    image = f"oci:{tmp_path / 'out'}:lazy"
    assert nopull.main(["check", image, "--against", image]) == 6
    assert "name the ordinary image" in capsys.readouterr().err
