"""What a store keeps when the machine went down: exactly what is known to have reached the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from xxhash import xxh3_64

from chunk_store import StoreUnusable, boot, checkpoint, sums
from chunk_store.boot import open_store
from chunk_store.sums import Sum
from tests.chunk_store.blobs import ScriptedSource, eventually, random_blob
from tests.chunk_store.conftest import OpenStore

BLOB = random_blob("recovery", 3 << 20)


def fill(open_store: OpenStore, *, boot_id: str, record: bool = True) -> Path:
    """A store that holds the blob, closed; *record* false loses the record, as a power cut does."""
    store = open_store(boot_id=boot_id)
    attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
    assert attachment.wait_complete(10)
    store.close()
    wait_recorded(store.root)
    if not record:
        (store.root / sums.NAME).unlink()
    return store.root


def wait_recorded(root: Path) -> None:
    """Return when all of the blob is recorded: the last checkpoint may go on after its store was closed."""
    for _ in range(3000):
        if len(sums.load(root)) == len(BLOB.windows):
            return
        time.sleep(0.01)
    raise AssertionError(f"{root}: the last checkpoint was not made within half a minute")


def pipes() -> int:
    """How many ends of pipes this process has open."""
    listed = list(Path("/proc/self/fd").iterdir())
    return sum(entry.exists() and str(entry.readlink()).startswith("pipe:") for entry in listed)


def windows_in(root: Path) -> dict[str, Path]:
    return {path.name: path for path in root.glob("windows/*/*")}


def test_recorded_windows_survive_a_new_boot(open_store: OpenStore) -> None:
    fill(open_store, boot_id="first")
    store = open_store(boot_id="second")
    assert store.recovery is not None
    assert (store.recovery.kept, store.recovery.dropped) == (len(BLOB.windows), 0)
    source = ScriptedSource(BLOB)
    assert store.attach([BLOB.meta], source).read(0, 0, len(BLOB.plain)) == BLOB.plain
    assert source.asked == []


def test_unrecorded_windows_are_dropped_under_a_new_boot_and_fetched_again(open_store: OpenStore) -> None:
    root = fill(open_store, boot_id="first", record=False)
    for path in windows_in(root).values():
        path.write_bytes(bytes(path.stat().st_size))  # of the right length, and lost
    store = open_store(boot_id="second")
    assert store.recovery is not None and store.recovery.dropped == len(BLOB.windows)
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).read(0, 0, len(BLOB.plain)) == BLOB.plain


def test_the_same_boot_drops_nothing(open_store: OpenStore) -> None:
    root = fill(open_store, boot_id="first", record=False)
    assert open_store(boot_id="first").recovery is None
    assert len(windows_in(root)) == len(BLOB.windows)


@pytest.mark.parametrize("damage", ["shorter", "longer", "other bytes", "link", "partial"])
def test_a_recorded_window_that_is_not_what_was_recorded_is_dropped(
    open_store: OpenStore, damage: str
) -> None:
    root = fill(open_store, boot_id="first")
    name, path = next(iter(windows_in(root).items()))
    content = path.read_bytes()
    if damage == "shorter":
        path.write_bytes(content[:-4096])
    elif damage == "longer":
        path.write_bytes(content + bytes(4096))
    elif damage == "other bytes":
        path.write_bytes(bytes(len(content)))
    elif damage == "partial":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.symlink_to("/etc/passwd")
    store = open_store(boot_id="second")
    assert store.recovery is not None and store.recovery.kept == len(BLOB.windows) - 1
    assert name not in windows_in(root)
    assert name not in sums.load(root)
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).read(0, 0, len(BLOB.plain)) == BLOB.plain


def test_a_recorded_window_that_was_only_touched_is_kept(open_store: OpenStore) -> None:
    root = fill(open_store, boot_id="first")
    os.utime(next(iter(windows_in(root).values())), ns=(1, 1))
    store = open_store(boot_id="second")
    assert store.recovery is not None and store.recovery.kept == len(BLOB.windows)


def test_the_record_names_checksum_length_and_mtime_of_every_window(open_store: OpenStore) -> None:
    root = fill(open_store, boot_id="first")
    recorded = sums.load(root)
    found = {
        name: Sum(name, xxh3_64(path.read_bytes()).intdigest(), path.stat().st_size, path.stat().st_mtime_ns)
        for name, path in windows_in(root).items()
    }
    assert recorded == found


def test_the_checksum_of_a_resumed_window_is_that_of_its_file(open_store: OpenStore) -> None:
    window = max(BLOB.windows, key=lambda w: w.unit_count)
    store = open_store(boot_id="first")
    path = store.root / "windows" / window.id[:2] / window.id
    path.parent.mkdir(parents=True)
    path.write_bytes(BLOB.plain[window.start : window.start + window.length // 2])
    store.attach([BLOB.meta], ScriptedSource(BLOB)).wait_complete(10)
    store.close()
    assert sums.load(store.root)[window.id].checksum == xxh3_64(path.read_bytes()).intdigest()


def test_a_torn_record_loses_its_last_line_only(tmp_path: Path) -> None:
    kept = [Sum(f"{n:064x}", n, 4096 * n, n) for n in range(1, 4)]
    sums.append(tmp_path, kept[:2])
    with (tmp_path / sums.NAME).open("ab") as record:
        record.write(f"{9:064x} 00000000".encode())
    assert sums.load(tmp_path) == {found.window_id: found for found in kept[:2]}
    sums.append(tmp_path, kept[2:])
    assert sums.load(tmp_path) == {found.window_id: found for found in kept}


@pytest.mark.parametrize(
    "line", ["", "\n", "a b c d\n", f"{1:064x} {2:016x} x 4\n", f"{1:064x} {2:016x} 3 4"]
)
def test_what_is_no_record_is_not_taken_for_one(line: str) -> None:
    assert sums.parse_line(line) is None


@pytest.mark.forks
def test_a_sync_that_takes_long_holds_up_nobody_and_is_recorded_all_the_same(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"

    def sync_late(_: int) -> None:
        while not go.exists():
            time.sleep(0.01)

    monkeypatch.setattr(checkpoint, "sync_filesystem", sync_late)
    store = open_store()
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).wait_complete(10)
    store.close()
    assert sums.load(store.root) == {}
    go.touch()
    wait_recorded(store.root)


@pytest.mark.forks
def test_what_could_not_be_recorded_because_no_process_was_to_be_had_is_recorded_later(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [errno.EAGAIN, errno.ENOMEM]
    really_fork = os.fork

    def fork() -> int:
        if refusals:
            number = refusals.pop()
            raise OSError(number, os.strerror(number))
        return really_fork()

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(checkpoint.Checkpoints.__init__, "__defaults__", (0.05,))
    store = open_store()
    before = pipes()
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).wait_complete(10)
    wait_recorded(store.root)
    assert not refusals
    assert caplog.text.count("cannot make a checkpoint") == 2
    assert eventually(lambda: pipes() == before)


@pytest.mark.forks
def test_what_was_filled_where_the_system_gives_no_thread_for_checkpoints_is_recorded_at_the_end(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.name == "checkpoint":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    store = open_store()
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).wait_complete(10)
    store.close()
    wait_recorded(store.root)


@pytest.mark.forks
def test_a_checkpoint_holds_nothing_of_its_process_open(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"

    def tell(_: int) -> None:
        # But what every process has, and the listing itself, which is gone when all are listed.
        listed = [entry for entry in list(Path("/proc/self/fd").iterdir()) if int(entry.name) > 2]
        found = [str(entry.readlink()) for entry in listed if entry.exists()]
        told.with_suffix(".new").write_text("\n".join([str(os.getpid()), *found]))
        told.with_suffix(".new").rename(told)

    monkeypatch.setattr(checkpoint, "sync_filesystem", tell)
    store = open_store()
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).wait_complete(10)
    store.close()
    wait_recorded(store.root)
    pid, *held = told.read_text().split("\n")
    assert int(pid) != os.getpid()
    assert sorted(one.partition(":")[0] for one in held) == [str(store.root), "pipe"]


def test_a_store_is_for_its_user_only(open_store: OpenStore) -> None:
    root = fill(open_store, boot_id="first")
    for path in [root, root / "windows", *root.glob("windows/*")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in [*windows_in(root).values(), root / sums.NAME]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_open_store_is_never_checked_by_another_process(tmp_path: Path) -> None:
    first, recovery = open_store(tmp_path, "now")
    second, again = open_store(tmp_path, "now")
    os.close(first)
    os.close(second)
    assert recovery is not None and again is None


def test_a_store_that_cannot_be_checked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> boot.Recovery:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(boot, "_recover", fail)
    with pytest.raises(StoreUnusable, match="Input/output error"):
        open_store(tmp_path, "second")


def test_an_opener_that_is_overtaken_does_not_wait_for_the_other_one_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that nobody has checked; the other one is faster, and stays."""
    others: list[int] = []
    original = fcntl.flock

    def overtaken(fd: int, operation: int) -> None:
        original(fd, operation)
        if operation == fcntl.LOCK_UN and not others:
            others.append(-1)
            others[0] = open_store(tmp_path, "this boot")[0]

    monkeypatch.setattr(fcntl, "flock", overtaken)
    ours, recovery = open_store(tmp_path, "this boot")
    assert recovery is None and others[0] >= 0
    for descriptor in (ours, *others):
        os.close(descriptor)
