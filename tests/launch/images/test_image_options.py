"""What names no platform and no directory is refused by every verb that opens an image, before it does."""

from __future__ import annotations

from pathlib import Path

import pytest

import nopull
from command import exit_codes
from tests.builder.layouts import Layout

VERBS = {
    "mount": ["mount", "rafs:image.boot", "place"],
    "pull": ["pull", "rafs:image.boot"],
    "check": ["check", "rafs:image.boot"],
    "inspect": ["inspect", "rafs:image.boot"],
    "explain": ["explain", "rafs:image.boot"],
    "diff": ["diff", "rafs:image.boot", "rafs:other.boot"],
}


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_a_platform_that_is_none_is_wrong_usage(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert nopull.main([*words, "--platform", "a/b/c/d"]) == exit_codes.USAGE
    assert "a/b/c/d" in capfd.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "--blob-dir", "", "rafs:image.boot"],
        ["inspect", "--root", "", "rafs:image.boot"],
        ["ps", "--root", ""],
        ["bench", "startup", "--image", ""],
        ["bench", "convert", "--image", ""],
        ["explain", "--registry", ""],
        ["mount", "rafs:image.boot", ""],
        ["umount", ""],
        ["inspect", ""],
        ["inspect", "--files", "--json", "rafs:image.boot"],
        ["explain", "--trace", "--registry", "localhost:1"],
        ["run", "--env", "=x", "rafs:image.boot"],
        ["run", "--env", "", "rafs:image.boot"],
    ],
    ids=" ".join,
)
def test_empty_words_and_options_that_exclude_each_other_are_wrong_usage(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    refused = exit_codes.RUN_FAILED if words[0] == "run" else exit_codes.USAGE
    assert nopull.main(words) == refused
    (said,) = capfd.readouterr().err.splitlines()
    assert words[0] != "run" or "names no variable" in said


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_blobs_that_would_lie_in_a_file_are_wrong_usage(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert nopull.main([*words, "--blob-dir", str(tmp_path / "file")]) == exit_codes.USAGE
    assert "--blob-dir" in capfd.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_a_place_for_blobs_with_an_image_that_has_its_own_is_wrong_usage(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("place").mkdir()
    Layout(tmp_path / "layout").add_image([])
    words = [f"oci:{tmp_path}/layout" if word.startswith("rafs:") else word for word in VERBS[verb]]
    words += ["--blob-dir", str(tmp_path)]
    words += [] if verb == "check" else ["--root", str(tmp_path / "root")]
    assert nopull.main(words) == exit_codes.USAGE
    assert "--blob-dir is for rafs:" in capfd.readouterr().err
