"""A keeper that could let hardly anybody wait does not start, and says why."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from erofs_fs.descriptors import require_descriptors
from erofs_fs.errors import KeeperFailed
from erofs_fs.keeper_program import KeeperProgram, start_keeper


def test_a_keeper_that_may_have_too_few_descriptors_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 255))
    with pytest.raises(KeeperFailed, match=r"needs 256 descriptors.* may have 255 here .*ulimit -Hn"):
        start_keeper(KeeperProgram(["/bin/true"], tmp_path / "log"), {})
    assert not (tmp_path / "log").exists()


def test_a_low_limit_that_may_be_raised_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 256))
    require_descriptors()
