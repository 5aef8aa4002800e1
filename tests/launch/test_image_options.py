"""What names no platform and no directory is refused by every verb that opens an image, before it does."""

from __future__ import annotations

from pathlib import Path

import pytest

import nopull
from command import exit_codes

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
    ],
    ids=" ".join,
)
def test_empty_words_and_options_that_exclude_each_other_are_wrong_usage(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert nopull.main(words) == exit_codes.USAGE
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_blobs_that_would_lie_in_a_file_are_wrong_usage(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert nopull.main([*words, "--blob-dir", str(tmp_path / "file")]) == exit_codes.USAGE
    assert "--blob-dir" in capfd.readouterr().err
