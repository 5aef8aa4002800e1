"""`nopull bench convert` measures real conversions and each part of them, and says what it found."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import nopull
from bench.convert import BATCH_SIZES, CHUNK_SIZES, LEVELS, Choice, convert_once
from bench.convert_parts import PARTS
from bench.errors import BenchError
from tests.builder.layouts import Layout
from tests.support.trees import file, layer_tar, tree

WORDS = 400_000


@pytest.fixture
def image(tmp_path: Path) -> str:
    content = b"".join(random.Random(2).choices([b"some", b" words ", b"again"], k=WORDS))
    Layout(tmp_path / "in").add_image([layer_tar([tree(file(b"a", content), file(b"b", b"small"))])])
    return f"oci:{tmp_path / 'in'}:app"


def test_parts_and_conversions_are_told_and_written(
    image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "result.json"
    assert nopull.main(["bench", "convert", "--image", image, "--runs", "1", "--json", str(written)]) == 0
    said = capsys.readouterr().out
    assert all(part in said for part in PARTS)
    found = json.loads(written.read_text())
    assert found["parts"]["tar_bytes"] == found["runs"][0]["tar_bytes"] > WORDS * len(b"some")
    assert found["bound"] > 0
    assert found["table"] == []
    assert {"measured", "machine", "versions"} <= found.keys()


@pytest.mark.parametrize("layers", ["plain", "known"])
def test_layers_can_be_plain_or_all_known(
    layers: str, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "result.json"
    command = ["bench", "convert", "--image", image, "--runs", "1", "--layers", layers]
    assert nopull.main([*command, "--json", str(written)]) == 0
    said = capsys.readouterr().out
    found = json.loads(written.read_text())
    (run,) = found["runs"]
    if layers == "plain":
        assert run["source_bytes"] == run["tar_bytes"]
    else:
        assert "gunzip alone" in said
        assert run["stored_bytes"] < 10_000, "only the bootstrap layer is new"


def test_the_table_has_every_combination(
    image: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.convert.LEVELS", LEVELS[:1])
    monkeypatch.setattr("bench.convert.BATCH_SIZES", BATCH_SIZES[:1])
    monkeypatch.setattr("bench.convert.CHUNK_SIZES", CHUNK_SIZES[:2])
    assert nopull.main(["bench", "convert", "--image", image, "--runs", "1", "--table"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [f"| {size >> 10}K" for size in CHUNK_SIZES[:2]]


def test_a_conversion_that_fails_is_told(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([b"no tar" * 200])
    with pytest.raises(BenchError, match="checksum"):
        convert_once(f"oci:{tmp_path / 'in'}:app", Choice())
