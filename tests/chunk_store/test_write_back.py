"""What a disk did not take is never recorded and never served as if it were there."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from xxhash import xxh3_64

from chunk_store import ChunkStore, checkpoint, sums, write_back
from chunk_store.window_file import LockedWindow
from tests.chunk_store.blobs import Blob, ScriptedSource, random_blob
from tests.chunk_store.conftest import OpenStore

pytestmark = pytest.mark.forks
BLOB = random_blob("write-back", 20 << 20)
OTHER = random_blob("the other one's", 1 << 20)
SMALL = random_blob("small", 3 << 20)


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


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

    def fail(self, store: ChunkStore) -> None:
        """From now on take almost nothing but what the windows' names and sizes need."""
        store.directory.reserve(window.id for blob in (BLOB, OTHER) for window in blob.windows)
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
    """Have *store* hold *blob*, not recorded yet."""
    assert store.attach([blob.meta], ScriptedSource(blob)).wait_complete(30)


def recorded_and_wrong(root: Path) -> list[str]:
    """Windows that are recorded and complete by their length, and hold something else on the disk."""
    drop_caches()
    found = sums.load(root)
    return [
        path.name
        for path in root.glob("windows/*/*")
        if path.name in found
        and path.stat().st_size == found[path.name].length
        and xxh3_64(path.read_bytes()).intdigest() != found[path.name].checksum
    ]


def fail(_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def lose(monkeypatch: pytest.MonkeyPatch, *window_ids: str) -> Callable[[], None]:
    """Have `syncfs` fail, and the `fsync` of these windows; calling what is returned mends the first."""
    really_sync = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().name in window_ids:
            fail(fd)
        really_sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(checkpoint, "sync_filesystem", fail)
    return lambda: monkeypatch.setattr(checkpoint, "sync_filesystem", lambda _: None)


@pytest.mark.system
def test_a_failed_write_back_is_noticed_although_another_process_was_told_of_it_first(
    disk: FailingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkStore(disk.place / "store") as first, ChunkStore(disk.place / "store") as second:
        disk.fail(first)
        fill(first, BLOB)
        fill(second, OTHER)
        os.sync()
        second.checkpoints.make()
        assert caplog.text.count("write-back failed") == 1
        recorded = first.checkpoints.make()
        assert caplog.text.count("write-back failed") == 2
        assert recorded < len(BLOB.windows)
        assert recorded_and_wrong(first.root) == []
        disk.recover()


@pytest.mark.system
def test_what_a_disk_did_not_take_is_fetched_again(disk: FailingDisk) -> None:
    with ChunkStore(disk.place / "store") as store:
        attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
        disk.fail(store)
        assert attachment.wait_complete(30)
        store.checkpoints.make(elsewhere=True)
        disk.recover()
        drop_caches()
        assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain


def test_failed_write_back_empties_the_windows_it_hit(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = SMALL.windows[0]
    store = open_store()
    source = ScriptedSource(SMALL)
    attachment = store.attach([SMALL.meta], source)
    assert attachment.wait_complete(10)
    lose(monkeypatch, lost.id)
    assert store.checkpoints.make() == len(SMALL.windows) - 1
    assert lost.id not in sums.load(store.root)
    assert store.directory.size(lost.id) == 0
    monkeypatch.undo()
    before = source.sent
    assert attachment.read(0, 0, len(SMALL.plain)) == SMALL.plain
    assert source.sent - before == lost.compressed_end - lost.compressed_start


def test_a_lost_window_that_somebody_holds_for_a_moment_is_emptied_later(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_back, "_LOCK_SECONDS", 0.0)
    lost, store = SMALL.windows[0], open_store()
    fill(store, SMALL)
    mend = lose(monkeypatch, lost.id)
    held = store.directory.try_lock(lost.id, lost.length)
    assert held is not None
    assert store.checkpoints.make(elsewhere=True) == len(SMALL.windows) - 1
    held.close()
    mend()
    assert store.directory.size(lost.id) == lost.length
    assert store.checkpoints.make(elsewhere=True) == 0
    assert store.directory.size(lost.id) == 0
    assert lost.id not in sums.load(store.root)


def test_a_lost_window_that_cannot_be_emptied_keeps_no_other_from_it_and_is_tried_again(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn, lost, store = SMALL.windows[0], SMALL.windows[1], open_store()
    fill(store, SMALL)
    mend = lose(monkeypatch, stubborn.id, lost.id)
    really_empty = LockedWindow.empty

    def empty(self: LockedWindow) -> None:
        if self.length == stubborn.length and len(emptied) < 1:
            emptied.append(self.length)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        really_empty(self)

    emptied: list[int] = []
    monkeypatch.setattr(LockedWindow, "empty", empty)
    assert store.checkpoints.make() == len(SMALL.windows) - 2
    assert sorted(map(store.directory.size, (stubborn.id, lost.id))) == [0, stubborn.length]
    assert "cannot be emptied: [Errno 30] Read-only file system" in caplog.text
    monkeypatch.undo()
    mend()
    assert store.checkpoints.make() == 0
    assert [store.directory.size(one.id) for one in (stubborn, lost)] == [0, 0]
    assert not {stubborn.id, lost.id} & sums.load(store.root).keys()


def test_of_many_windows_that_cannot_be_emptied_a_few_are_named_and_all_counted(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    fill(store, SMALL)
    lose(monkeypatch, *(window.id for window in SMALL.windows))
    monkeypatch.setattr(LockedWindow, "empty", fail)
    monkeypatch.setattr(write_back, "_MOST_LINES", 1)
    assert store.checkpoints.make() == 0
    assert caplog.text.count("cannot be emptied: ") == 1
    assert f"{len(SMALL.windows)} windows did not reach the disk and cannot be emptied" in caplog.text
    monkeypatch.undo()


def test_a_window_that_was_being_filled_when_write_back_failed_is_asked_for_at_its_own_checkpoint(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    fill(store, OTHER)
    later = SMALL.windows[0]
    mend = lose(monkeypatch, later.id)
    store.checkpoints.make(elsewhere=True)
    mend()  # the kernel does not tell twice
    attachment = store.attach([SMALL.meta], ScriptedSource(SMALL))
    assert attachment.wait_complete(10)
    assert store.checkpoints.make(elsewhere=True) == len(SMALL.windows) - 1
    assert store.directory.size(later.id) == 0


def test_a_lost_window_of_a_killed_process_is_emptied_by_whoever_learns_of_it(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = open_store()
    monkeypatch.setattr(killed.checkpoints, "note", lambda _: None)
    fill(killed, SMALL)
    lost, store = SMALL.windows[0], open_store()
    fill(store, OTHER)
    lose(monkeypatch, lost.id)
    assert store.checkpoints.make() == len(OTHER.windows)
    sizes = {one.id: store.directory.size(one.id) for one in SMALL.windows}
    assert sizes == {one.id: one.length for one in SMALL.windows} | {lost.id: 0}


def test_a_checkpoint_whose_child_dies_is_made_again_and_asks_for_each_window(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, store = SMALL.windows[0], open_store()
    fill(store, SMALL)
    mend = lose(monkeypatch, lost.id)
    monkeypatch.setattr(checkpoint, "sync_filesystem", lambda _: os._exit(9))
    assert store.checkpoints.make(elsewhere=True) == 0
    mend()
    assert store.checkpoints.make(elsewhere=True) == len(SMALL.windows) - 1
    assert store.directory.size(lost.id) == 0
