"""A run with a list of required tests is green only if each of them was run and has passed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import pytest

def test_good(): pass

@pytest.mark.parametrize("n", [1, 2])
def test_many(n): pass

@pytest.mark.parametrize("n", [1, 2])
def test_partly(n):
    if n == 2: pytest.skip("no reason")

@pytest.mark.skip(reason="left out")
def test_skipped(): pass

@pytest.mark.system
def test_system(): pass
"""

# Who we are cannot be changed for a test: an ordinary user might not even read the interpreter.
AS_ANYBODY = "import os, sys, pytest; os.geteuid = lambda: 1000; sys.exit(pytest.main(sys.argv[1:]))"


def run_with_required(directory: Path, *ids: str, workers: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the suite above with the given list of required ids, by *workers* or none."""
    (directory / "test_suite.py").write_text(SUITE, encoding="utf-8")
    (directory / "required").write_text("# remark\n" + "\n".join(ids), encoding="utf-8")
    # Without hypothesis, and therefore without tests.conftest: it takes half the time of each process.
    plugins = ["-p", "tests.support.required", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    suite = [str(directory / "test_suite.py"), "--required", str(directory / "required"), "-n", str(workers)]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", str(directory), *suite]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_run_is_green_when_all_required_tests_passed(tmp_path: Path, workers: int) -> None:
    required = ("test_suite.py::test_good", "test_suite.py::test_many  # both")
    done = run_with_required(tmp_path, *required, workers=workers)
    assert done.returncode == pytest.ExitCode.OK, done.stdout


@pytest.mark.parametrize(
    ("workers", "tests"), [(0, ["test_skipped"]), (2, ["test_partly", "test_go"])], ids=["alone", "workers"]
)
def test_run_fails_when_a_required_test_is_skipped_or_absent(
    tmp_path: Path, workers: int, tests: list[str]
) -> None:
    unmet = [f"test_suite.py::{test}" for test in tests]
    done = run_with_required(tmp_path, "test_suite.py::test_good", *unmet, workers=workers)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert re.findall(r"required test not passed: (\S+):", done.stdout) == unmet


def test_system_tests_are_left_out_without_root_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    options = ["-q", "-rs", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    suite = f"{tmp_path}/test_suite.py::test_system"
    command = [sys.executable, "-c", AS_ANYBODY, *options, "-c", str(ROOT / "pyproject.toml"), suite]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "needs root" in done.stdout
    assert "1 skipped" in done.stdout
