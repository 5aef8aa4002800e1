"""The end of a mount is noticed whoever looks at its hold just then. A descriptor stands for the mount."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from erofs_fs.hold_watch import HoldWatch


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    path = tmp_path / "hold"
    path.touch()
    return path


@pytest.fixture
def watch(hold: Path) -> Iterator[HoldWatch]:
    made = HoldWatch()
    made.add("mount", hold)
    yield made
    os.close(made.descriptor)


def test_a_mount_that_ends_is_noticed_at_once(watch: HoldWatch, hold: Path) -> None:
    mount = os.open(hold, os.O_RDONLY)
    assert watch.ended() == []
    os.close(mount)
    assert watch.ended() == ["mount"]
    assert watch.due() is None


def test_a_mount_that_ends_while_somebody_looks_at_it_is_noticed_soon(watch: HoldWatch, hold: Path) -> None:
    mount, looking = os.open(hold, os.O_RDONLY), os.open(hold, os.O_RDWR)
    os.close(mount)
    assert watch.ended() == []
    due = watch.due()
    assert due is not None and due < time.monotonic() + 2
    assert watch.overdue(due) == []  # by chance the next one looks
    os.close(looking)
    assert watch.ended() == []  # nobody tells of that
    due = watch.due()
    assert due is not None
    assert watch.overdue(due - 0.1) == []
    assert watch.overdue(due) == ["mount"]
    watch.forget("mount")
    assert watch.due() is None


def test_a_mount_that_lives_is_not_looked_at_for_ever(watch: HoldWatch, hold: Path) -> None:
    mount, other = os.open(hold, os.O_RDONLY), os.open(hold, os.O_RDONLY)
    os.close(other)
    looks = 0
    assert watch.ended() == []
    while (due := watch.due()) is not None:
        assert watch.overdue(due) == []
        looks += 1
    assert 0 < looks < 5
    os.close(mount)
    assert watch.ended() == ["mount"]
