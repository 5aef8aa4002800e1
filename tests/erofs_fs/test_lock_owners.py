"""Who holds a lock: a process that is seen from here, on a file of the very file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunk_store.lock_file import lock_file
from erofs_fs import pids
from erofs_fs.pids import lock_owners


def test_the_owner_of_a_lock_is_found(tmp_path: Path) -> None:
    descriptor = lock_file(tmp_path / "lock")
    assert descriptor is not None
    status = os.fstat(descriptor)
    assert lock_owners(status.st_dev, {status.st_ino, 1}) == {status.st_ino: os.getpid()}
    os.close(descriptor)
    assert lock_owners(status.st_dev, {status.st_ino}) == {}


def test_a_lock_on_another_file_system_or_of_a_process_that_is_not_seen_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "locks"
    table.write_text(
        "1: FLOCK  ADVISORY  WRITE 50 fe:0a:131 0 EOF\n"
        "2: FLOCK  ADVISORY  WRITE 51 fe:0b:132 0 EOF\n"
        "2: -> FLOCK  ADVISORY  WRITE 52 fe:0a:132 0 EOF\n"
        "3: FLOCK  ADVISORY  READ 53 fe:0a:133 0 EOF\n"
        "4: POSIX  ADVISORY  WRITE 54 fe:0a:134 0 EOF\n"
        "5: FLOCK  ADVISORY  WRITE 0 fe:0a:135 0 EOF\n"
        "6: FLOCK  ADVISORY  WRITE 56 00:2a:136 0 EOF\n"
    )
    monkeypatch.setattr(pids, "LOCKS", table)
    asked = set(range(131, 137))
    assert lock_owners(os.makedev(0xFE, 0x0A), asked) == {131: 50}
    # A subvolume, whose file system has another number without a disk.
    assert lock_owners(os.makedev(0, 0x2B), asked) == {136: 56}
