"""A lock file is held by one at a time, and free again as soon as that one is gone."""

from __future__ import annotations

import os
from pathlib import Path

from chunk_store.lock_file import lock_file


def test_a_file_that_is_held_is_given_to_nobody_else_until_it_is_closed(tmp_path: Path) -> None:
    first = lock_file(tmp_path / "lock")
    assert first is not None
    assert lock_file(tmp_path / "lock") is None
    os.close(first)
    again = lock_file(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_whoever_gets_no_lock_keeps_no_descriptor(tmp_path: Path) -> None:
    held = lock_file(tmp_path / "lock")
    assert held is not None
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert lock_file(tmp_path / "lock") is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(held)
