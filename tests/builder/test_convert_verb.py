"""`nopull convert` says what it did, on a terminal, in lines and as JSON, and refuses what makes no sense."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.convert_verb import Size, convert
from builder.discovery import ARTIFACT_TYPE
from builder.progress import LineProgress, shown_progress
from registry_client.errors import ReferenceInvalid
from tests.builder.layouts import Layout, Published
from tests.support.trees import file, layer_tar, tree

LAYERS = [layer_tar([tree(file(b"a", b"a" * 9000))]), layer_tar([tree(file(b"b", b"b"))])]


@pytest.fixture
def source(tmp_path: Path) -> str:
    Layout(tmp_path / "in").add_image(LAYERS)
    return f"oci:{tmp_path / 'in'}:app"


def test_the_last_line_has_the_digest(source: str, tmp_path: Path) -> None:
    destination = f"oci:{tmp_path / 'out'}:lazy"
    done = CliRunner().invoke(convert, [source, destination], catch_exceptions=False)
    assert done.exit_code == 0
    digest = Published(tmp_path / "out").digest
    assert done.stdout.splitlines()[-1] == f"{destination}: {digest}"
    assert "linux/amd64: 2 layers" in done.stdout
    for step in ("fetch layer 1/2", "pack layer 2/2", "push layer 1/2"):
        assert step in done.stderr
    copy = f"oci:{tmp_path / 'copy'}:lazy"
    again = CliRunner().invoke(convert, [destination, copy], catch_exceptions=False)
    assert again.stdout.splitlines() == ["converted already, copied as it is", f"{copy}: {digest}"]


def test_json_has_the_numbers(source: str, tmp_path: Path) -> None:
    arguments = [source, f"oci:{tmp_path / 'out'}:lazy", "--json", "--jobs", "1", "--compression-level", "3"]
    done = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    report = json.loads(done.stdout)
    assert report["digest"] == Published(tmp_path / "out").digest
    assert report["already_converted"] is False
    (image,) = report["images"]
    assert (len(image["layers"]), image["tar_bytes"]) == (2, sum(map(len, LAYERS)))
    assert image["stored_bytes"] > image["bootstrap_layer_bytes"] > 0
    assert image["seconds"].keys() == {"fetching", "merging", "packing", "writing", "pushing"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chunk-size", "100K"], "not a power of two"),
        (["--chunk-size", "32M"], "not a size from 4K to 16M"),
        (["--batch-size", "1K"], "not a size from 4K to 8M"),
        (["--batch-size", "many"], "not a size from 4K to 8M"),
        (["--compression-level", "0"], "--compression-level"),
        (["--jobs", "0"], "--jobs"),
        (["--work-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(
    source: str, options: list[str], said: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(convert, [source, f"oci:{tmp_path / 'never'}", *options])
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("65536B", 65536), ("64K", 65536), ("64KiB", 65536), ("1m", 1 << 20)],
)
def test_a_bare_unit_is_binary_where_powers_of_two_are_asked(text: str, size: int) -> None:
    assert Size(16 << 20, power_of_two=True)(text) == size


@pytest.mark.parametrize(("option", "text"), [("--chunk-size", "64KB"), ("--batch-size", "4mb")])
def test_a_decimal_unit_is_refused_where_powers_of_two_are_asked(
    source: str, option: str, text: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(convert, [source, f"oci:{tmp_path / 'never'}", option, text])
    assert done.exit_code == 2
    assert f"{text[:-1].upper()}iB" in done.stderr


def test_a_destination_cannot_have_a_digest(source: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(convert, [source, f"registry.example/app@sha256:{'0' * 64}"])
    assert done.exit_code == 2
    assert "name a tag" in done.stderr


def test_what_was_left_out_and_how_much_there_was_is_told_as_it_is(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    amd, note = layout.add_image(LAYERS[:1], tag=None), layout.add_image(LAYERS[1:], tag=None)
    attestation = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    platform = {"platform": {"os": "linux", "architecture": "amd64"}}
    marked = {"artifactType": ARTIFACT_TYPE}
    converted = [{**note, **platform, **marked}, {**amd, **platform, **marked}]
    layout.add_index([{**amd, **platform}, {**note, **attestation}, *converted])
    arguments = [f"oci:{tmp_path / 'in'}:app", f"oci:{tmp_path / 'out'}:lazy", "--platform", "all"]
    told = CliRunner().invoke(convert, arguments, catch_exceptions=False).stdout
    assert "linux/amd64: 1 layer, " in told
    assert "left out 1 entry of the index: not of an image" in told
    assert "left out 2 entries of the index: converted images, which were made anew" in told


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("oci:in:app", "oci:out:lazy"),
        ("oci:in:app", "registry.example/app:lazy"),
        ("oci-archive:in:app", "oci-archive:in:lazy"),
        ("registry.example/app:1", "registry.example/other:lazy"),
        ("registry.example/app:1", "elsewhere.example/app:lazy"),
    ],
)
def test_a_referrer_is_refused_where_it_could_not_refer_to_anything(source: str, destination: str) -> None:
    done = CliRunner().invoke(convert, [source, destination, "--referrer"])
    assert done.exit_code == 2
    assert "has to be in its repository or layout" in done.stderr


def test_a_referrer_is_made_in_the_layout_of_its_source_or_beside_it_in_an_index(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (["oci:./in:lazy"], ["oci:both:app", "--index", "artifact-type"]):
        assert CliRunner().invoke(convert, [source, *options, "--referrer"]).exit_code == 0


def test_a_platform_that_is_none_is_refused(source: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(convert, [source, f"oci:{tmp_path / 'out'}", "--platform", "a/b/c/d"])
    assert isinstance(done.exception, ReferenceInvalid)


def test_the_help_teaches_with_an_example() -> None:
    shown = CliRunner().invoke(convert, ["--help"]).stdout
    assert "Examples:" in shown
    assert "[default: 256K]" in shown


def test_lines_name_step_amount_and_outcome() -> None:
    stream = io.StringIO()
    with shown_progress(stream) as progress:
        assert isinstance(progress, LineProgress)
        progress.begin("fetch layer 1/1", 10)
        progress.advance("fetch layer 1/1", 2_000_000)
        progress.finish("fetch layer 1/1", "unpacked to 5.0 MB")
        progress.begin("pack layer 1/1", 0)
        progress.finish("pack layer 1/1", "nothing new")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("fetch layer 1/1: 2.0 MB in 0.")
    assert first.endswith(", unpacked to 5.0 MB")
    assert second == "pack layer 1/1: nothing new"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars() -> None:
    stream = Terminal()
    with shown_progress(stream) as progress:
        assert not isinstance(progress, LineProgress)
        progress.begin("push layer 1/1", 100)
        progress.advance("push layer 1/1", 60)
        progress.finish("push layer 1/1", "done")
    assert "push layer 1/1" in stream.getvalue()


HANGS_UP = """
import os, signal, sys
import builder.convert
import nopull

def hang_up(*_, **__):
    os.kill(os.getpid(), signal.SIGHUP)

builder.convert.convert = hang_up
sys.exit(nopull.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_a_terminal_that_is_closed_leaves_nothing_of_a_conversion(
    source: str, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    words = [sys.executable, "-c", HANGS_UP, "convert", source, f"{kind}:{place}/out"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (129, "")
    assert list(place.iterdir()) == []


def test_a_conversion_that_was_told_to_survive_its_terminal_does(source: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", HANGS_UP, "convert", source, f"oci:{tmp_path}/out"]
    done = subprocess.run(["nohup", *words], capture_output=True, timeout=60, check=False)
    assert done.returncode != 129
