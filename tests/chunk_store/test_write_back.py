"""Whoever wrote what a disk did not take learns of it: on a disk that really takes no more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chunk_store import ChunkStore
from tests.chunk_store.blobs import Blob, ScriptedSource, random_blob

BLOB = random_blob("write-back", 20 << 20)
OTHER = random_blob("the other one's", 1 << 20)


class FailingDisk:
    """An ext4 at `place` whose device can be made to take no more, although the file system has room."""

    def __init__(self, base: Path) -> None:
        self._below = base / "below"
        self.place = base / "disk"
        for directory in (self._below, self.place):
            directory.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "below", self._below], check=True)
        image = self._below / "image"
        with image.open("wb") as opened:
            opened.truncate(200 << 20)
        # No journal: the file system is to outlive what its device refuses.
        subprocess.run(
            ["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", image], check=True
        )
        subprocess.run(["mount", "-o", "loop,errors=continue", image, self.place], check=True)

    def fail(self) -> None:
        """From now on take almost nothing."""
        os.sync()
        with (self._below / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(1 << 20))
        with (self._below / "ballast").open("rb+") as ballast:
            ballast.truncate(os.fstat(ballast.fileno()).st_size - (4 << 20))

    def recover(self) -> None:
        """Take everything again."""
        (self._below / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", self.place], check=True)
        subprocess.run(["umount", "-l", self._below], check=True)  # the loop device lets go a moment later


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    made = FailingDisk(tmp_path)
    yield made
    made.close()


def fill(store: ChunkStore, blob: Blob) -> None:
    assert store.attach([blob.meta], ScriptedSource(blob)).wait_complete(30)


@pytest.mark.system
def test_a_failed_write_back_is_noticed_although_another_process_was_told_of_it_first(
    disk: FailingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkStore(disk.place / "store") as first, ChunkStore(disk.place / "store") as second:
        disk.fail()
        fill(first, BLOB)
        fill(second, OTHER)
        os.sync()
        second.checkpoints.make()
        assert caplog.text.count("write-back failed") == 1
        recorded = first.checkpoints.make()
        assert caplog.text.count("write-back failed") == 2
        assert recorded < len(BLOB.windows)
        disk.recover()
