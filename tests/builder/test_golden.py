"""The same input and options give the same digests, today and tomorrow, on any machine, with any `--jobs`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builder.golden import GOLDEN, digests


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_digests_are_those_written_down(jobs: int) -> None:
    assert list(digests(jobs)) == list(GOLDEN)


@pytest.mark.system
@pytest.mark.parametrize("version", ["0.24.0", "0.25.0"])
def test_digests_are_the_same_with_every_zstandard_that_may_be_installed(
    version: str, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", tmp_path, f"zstandard=={version}"], check=True)
    told = subprocess.run(
        [sys.executable, "-m", "tests.builder.golden"],
        env={"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines() == list(GOLDEN)
    shown = "import zstandard; print(zstandard.__version__)"
    command = [sys.executable, "-c", shown]
    used = subprocess.check_output(command, env={"PYTHONPATH": str(tmp_path)}, text=True)
    assert used.strip() == version
