"""The remote fails, lies or is away, the disk is full, files are damaged: right bytes or a typed error."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunk_store import ChunkCorrupt, ChunkStore, ChunkUnavailable, Limits, Readers, StoreFull, StoreUnusable
from chunk_store.fill import Fill
from chunk_store.window_file import LockedWindow, WindowDirectory
from chunk_store.window_sink import VerifiedPrefix
from rafs.windows import Window
from tests.chunk_store.blobs import (
    Asked,
    Blob,
    RemoteFailed,
    ScriptedSource,
    chunk_of,
    eventually,
    random_blob,
    wait_for,
)
from tests.chunk_store.conftest import OpenStore

BLOB = random_blob("faults", 4 << 20)
WINDOW = BLOB.windows[1]
WINDOW_BYTES = BLOB.plain[WINDOW.start : WINDOW.start + WINDOW.length]


def file_of(store: ChunkStore, window: Window) -> Path:
    return store.root / "windows" / window.id[:2] / window.id


def put_file(store: ChunkStore, window: Window, content: bytes) -> Path:
    path = file_of(store, window)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read_all(store: ChunkStore, source: ScriptedSource, blob: Blob = BLOB) -> bytes:
    return store.attach([blob.meta], source, background=False).read(0, 0, len(blob.plain))


def test_a_temporary_failure_is_tried_again(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    source.failures.extend([RemoteFailed("reset", temporary=True), ConnectionResetError("reset")])
    attachment = store.attach([BLOB.meta], source, background=False)
    assert attachment.read(0, 0, 100) == BLOB.plain[:100]
    assert len(source.asked) == 3


def test_a_stream_that_breaks_goes_on_at_the_unit_it_broke_in(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    window = max(BLOB.windows, key=lambda w: w.unit_count)
    last = BLOB.meta.unit(window.first_unit + window.unit_count - 1)

    def break_once(asked: Asked, sent: int) -> None:
        if asked.offset + sent > last.compressed_offset and len(source.asked) == 1:
            raise RemoteFailed("reset", temporary=True)

    source.on_piece = break_once
    source.piece = 10_000
    attachment = store.attach([BLOB.meta], source, background=False)
    found = attachment.read(0, window.start, window.length)
    assert found == BLOB.plain[window.start : window.start + window.length]
    assert [asked.offset for asked in source.asked] == [window.compressed_start, last.compressed_offset]


def test_a_permanent_failure_is_reported_at_once_and_the_next_read_tries_again(
    store: ChunkStore, caplog: pytest.LogCaptureFixture
) -> None:
    source = ScriptedSource(BLOB)
    source.failures.append(RemoteFailed("not found on host.example", temporary=False))
    attachment = store.attach([BLOB.meta], source, background=False)
    with pytest.raises(ChunkUnavailable, match=r"window 0 of blob .*not found on host\.example") as caught:
        attachment.read(0, 0, 100)
    assert not caught.value.temporary
    assert len(source.asked) == 1
    assert "not found" in (attachment.progress().trouble or "")
    assert not caplog.records, "it is for who reads to say so: he knows the path"
    assert attachment.read(0, 0, 100) == BLOB.plain[:100]
    assert eventually(lambda: attachment.progress().trouble is None)


@pytest.mark.parametrize("temporary", [True, False])
def test_who_joins_a_fetch_that_is_out_of_time_has_time_of_his_own(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, temporary: bool
) -> None:
    gate, waiters = threading.Event(), threading.Semaphore(0)
    wait = Fill.wait

    def counted(fill: Fill, end: int, deadline: float) -> tuple[bool, bytearray | None]:
        waiters.release()
        return wait(fill, end, deadline)

    monkeypatch.setattr(Fill, "wait", counted)
    source = ScriptedSource(BLOB)
    source.failures.append(RemoteFailed("away", temporary=temporary))
    source.on_request = lambda _: wait_for(gate)
    attachment = open_store(limits=Limits(fetch_seconds=0)).attach([BLOB.meta], source, background=False)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(attachment.read, 0, 0, 100)
        assert waiters.acquire(timeout=10)
        second = pool.submit(attachment.read, 0, 0, 100)
        assert waiters.acquire(timeout=10)
        gate.set()
        assert isinstance(first.exception(10), ChunkUnavailable)
        if temporary:
            assert second.result(10) == BLOB.plain[:100]
        else:
            assert isinstance(second.exception(10), ChunkUnavailable)
    assert len(source.asked) == 1 + temporary


@pytest.mark.parametrize("temporary", [True, False])
def test_who_is_told_of_a_fetch_that_is_out_of_time_has_time_of_his_own(
    open_store: OpenStore, temporary: bool
) -> None:
    gate = threading.Event()
    source = ScriptedSource(BLOB)
    source.failures.append(RemoteFailed("away", temporary=temporary))
    source.on_request = lambda _: wait_for(gate)
    attachment = open_store(limits=Limits(fetch_seconds=0)).attach([BLOB.meta], source, background=False)
    told: list[tuple[str, object]] = []
    attachment.when_local(0, 100, lambda error: told.append(("first", error)))
    attachment.when_local(0, 200, lambda error: told.append(("second", error)))
    gate.set()
    assert eventually(lambda: len(told) == 2)
    found = dict(told)
    assert isinstance(found["first"], ChunkUnavailable)
    assert (found["second"] is None) == temporary
    assert len(source.asked) == 1 + temporary


def test_whose_time_is_over_begins_no_fetch_anew(open_store: OpenStore) -> None:
    gate = threading.Event()
    source = ScriptedSource(BLOB)
    source.failures.append(RemoteFailed("away", temporary=True))
    source.on_request = lambda _: wait_for(gate)
    limits = Limits(fetch_seconds=0, read_seconds=0)
    attachment = open_store(limits=limits).attach([BLOB.meta], source, background=False)
    told: list[object] = []
    attachment.when_local(0, 100, told.append)
    attachment.when_local(0, 200, told.append)
    gate.set()
    assert eventually(lambda: len(told) == 2)
    assert all(isinstance(error, ChunkUnavailable) for error in told)
    assert len(source.asked) == 1


def test_a_dead_remote_is_unavailable_within_the_deadline_and_usable_when_it_is_back(
    open_store: OpenStore,
) -> None:
    source = ScriptedSource(BLOB)
    dead = RemoteFailed("connection refused", temporary=True)

    def refuse(_: Asked) -> None:
        raise dead

    source.on_request = refuse
    store = open_store(limits=Limits(fetch_seconds=0.3))
    attachment = store.attach([BLOB.meta], source, background=False)
    with pytest.raises(ChunkUnavailable, match="connection refused") as caught:
        attachment.read(0, 0, 100)
    assert caught.value.temporary
    before = len(source.asked)
    source.on_request = lambda _: None
    assert attachment.read(0, 0, 100) == BLOB.plain[:100]
    assert len(source.asked) == before + 1


def test_a_remote_that_says_nothing_lets_readers_go_in_time(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    gate = threading.Event()
    source.on_request = lambda _: wait_for(gate)
    attachment = open_store(limits=Limits(read_seconds=0.2)).attach([BLOB.meta], source, background=False)
    with pytest.raises(ChunkUnavailable, match=r"no answer within 0\.\d s"):
        attachment.read(0, 0, 100)
    gate.set()
    assert eventually(lambda: attachment.progress().windows_present == 1)
    assert attachment.read(0, 0, 100) == BLOB.plain[:100]
    assert len(source.asked) == 1


def test_who_gives_up_before_the_fetch_does_is_told_what_stands_in_the_way(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    away = RemoteFailed("host.example: connection refused", temporary=True)

    def refuse(_: Asked) -> None:
        raise away

    source.on_request = refuse
    store = open_store(limits=Limits(read_seconds=0.3, fetch_seconds=60))
    attachment = store.attach([BLOB.meta], source, background=False)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(attachment.read, 0, 0, 100)
        assert eventually(lambda: attachment.progress().trouble == str(away))
        error = reading.exception(10)
    assert isinstance(error, ChunkUnavailable) and error.temporary and error.__cause__ is away
    name = f"window 0 of blob {BLOB.meta.id} (window id {BLOB.windows[0].id[:16]})"
    assert f"{name}: no answer within 0." in str(error)
    assert f" s: {away}; the next read" in str(error)
    assert attachment.progress().trouble == str(away), "it is still being tried"
    source.on_request = lambda _: None
    assert eventually(lambda: attachment.progress().windows_present == 1)
    assert attachment.progress().trouble is None


def test_whose_time_was_over_before_he_asked_is_not_said_to_have_waited(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    gate = threading.Event()
    source.on_request = lambda _: wait_for(gate)
    attachment = open_store().attach([BLOB.meta], source, background=False)
    with pytest.raises(ChunkUnavailable, match="no answer within 0 s;"):
        attachment.read(0, 0, 100, time.monotonic() - 1)
    gate.set()


def test_who_waits_behind_other_fetches_is_told_what_stands_in_their_way(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    source.failures.extend(RemoteFailed("refused", temporary=True) for _ in range(1000))
    limits = Limits(read_seconds=0.5, fetch_seconds=60, demand_connections=1)
    attachment = open_store(limits=limits).attach([BLOB.meta], source, background=False)
    attachment.when_local(0, 100, lambda _: None)
    assert eventually(lambda: attachment.progress().trouble is not None)
    with pytest.raises(ChunkUnavailable, match=r"window 1 .*: no answer within 0\.\d s: refused;"):
        attachment.read(0, WINDOW.start, 100)


def test_a_remote_that_wants_to_be_left_alone_is(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    busy = RemoteFailed("busy", temporary=True)
    busy.retry_after = 0.5
    source.failures.append(busy)
    attachment = open_store().attach([BLOB.meta], source, background=False)
    began = time.monotonic()
    assert attachment.read(0, 0, 100) == BLOB.plain[:100]
    assert time.monotonic() - began >= 0.5
    assert len(source.asked) == 2


def test_a_byte_flipped_on_the_way_is_fetched_once_more(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    source.flip(BLOB, WINDOW.compressed_start + 1000, times=1)
    assert read_all(store, source) == BLOB.plain
    assert len(source.asked) == len(BLOB.windows) + 1
    assert file_of(store, WINDOW).read_bytes() == WINDOW_BYTES
    (told,) = source.distrusted
    unit = BLOB.meta.unit(WINDOW.first_unit)
    assert (told.blob_id, told.offset, told.size) == (
        BLOB.meta.id,
        unit.compressed_offset,
        unit.compressed_size,
    )


def test_bytes_wrong_at_the_source_reach_neither_reader_nor_file(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    flipped = BLOB.meta.unit(WINDOW.first_unit + WINDOW.unit_count - 1).compressed_offset + 150_000
    source.flip(BLOB, flipped, times=1000)
    attachment = store.attach([BLOB.meta], source)
    with pytest.raises(ChunkCorrupt, match=f"window 1 of blob {BLOB.meta.id}"):
        attachment.read(0, WINDOW.start, WINDOW.length)
    with pytest.raises(ChunkCorrupt, match="wrong at the source: 1 window"):
        attachment.wait_complete(10)
    assert attachment.progress().windows_present == len(BLOB.windows) - 1
    kept = file_of(store, WINDOW).read_bytes()
    assert len(kept) < WINDOW.length and WINDOW_BYTES.startswith(kept)
    source.flips.clear()
    assert attachment.read(0, WINDOW.start, WINDOW.length) == WINDOW_BYTES


def test_a_remote_that_sends_too_little_or_too_much_changes_nothing(store: ChunkStore) -> None:
    class Sloppy(ScriptedSource):
        def read_at(self, blob_id: str, offset: int, size: int):  # type: ignore[no-untyped-def]
            short = not self.asked
            yield from super().read_at(blob_id, offset, size - 7 if short else size)
            if not short:
                yield b"and more" * 1000

    source = Sloppy(BLOB)
    assert read_all(store, source) == BLOB.plain
    assert len(source.asked) == len(BLOB.windows) + 1


def test_the_background_rests_and_comes_back_when_the_remote_does(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    source.failures.extend(RemoteFailed("not yet", temporary=True) for _ in range(3))
    attachment = store.attach([BLOB.meta], source)
    assert attachment.wait_complete(20)
    assert attachment.progress().trouble is None


def test_an_error_that_nobody_expected_is_tried_again_slowly_and_told_of(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[str] = []

    def fail(_: WindowDirectory, name: str) -> None:
        tries.append(name)
        raise ZeroDivisionError("nobody thought of this")

    with monkeypatch.context() as broken:
        broken.setattr(WindowDirectory, "_make_shelf", fail)
        attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
        assert not attachment.wait_complete(2)
        assert 1 < len(tries) < 10
        assert "ZeroDivisionError('nobody thought of this')" in (attachment.progress().trouble or "")
        assert caplog.text.count("filling windows [") == 1, "one traceback"
        with pytest.raises(ChunkUnavailable, match="nobody thought of this"):
            attachment.read(0, 0, 10)
    assert attachment.wait_complete(20)
    assert attachment.progress().trouble is None


def test_a_window_that_fails_unexpectedly_keeps_no_other_from_being_fetched(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = WindowDirectory.try_lock

    def fail_one(self: WindowDirectory, window_id: str, length: int) -> LockedWindow | None:
        if window_id == WINDOW.id:
            raise ZeroDivisionError
        return original(self, window_id, length)

    monkeypatch.setattr(WindowDirectory, "try_lock", fail_one)
    attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
    assert eventually(lambda: attachment.progress().windows_present == len(BLOB.windows) - 1)


def test_an_unexpected_error_leaves_no_window_locked(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    put_file(store, WINDOW, WINDOW_BYTES[:5000])
    monkeypatch.setattr(VerifiedPrefix, "extend", fail)
    attachment = store.attach([BLOB.meta], ScriptedSource(BLOB), background=False)
    with pytest.raises(ChunkUnavailable, match="ZeroDivisionError"):
        attachment.read(0, WINDOW.start, 10)
    locked = store.directory.try_lock(WINDOW.id, WINDOW.length)
    assert locked is not None
    locked.close()


def test_waiting_for_an_image_the_remote_does_not_have_ends_at_once(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)

    def refuse(_: Asked) -> None:
        raise RemoteFailed("404 not found", temporary=False)

    source.on_request = refuse
    attachment = store.attach([BLOB.meta], source)
    with pytest.raises(ChunkUnavailable, match="404 not found"):
        attachment.wait_complete(20)


def test_closing_lets_readers_go_whatever_the_remote_does(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    begun, gate = threading.Event(), threading.Event()

    def hold(_: Asked) -> None:
        begun.set()
        wait_for(gate)

    source.on_request = hold
    attachment = store.attach([BLOB.meta], source)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(attachment.read, 0, 0, 10)
        assert begun.wait(10)
        attachment.close()
        with pytest.raises(ChunkUnavailable, match="unmounted"):
            read.result(10)
        gate.set()
    with pytest.raises(ChunkUnavailable, match="unmounted"):
        attachment.read(0, 0, 10)


@pytest.mark.parametrize(
    ("left_behind", "refetched"),
    [
        (b"", True),
        (WINDOW_BYTES[:5000], True),
        (WINDOW_BYTES[: WINDOW.length - 1], True),
        (chunk_of("garbage", WINDOW.length // 2), True),
        (WINDOW_BYTES[:200_000] + chunk_of("garbage", 100_000), True),
        (WINDOW_BYTES + b"grown", False),
        (chunk_of("garbage", WINDOW.length + 4096), True),
    ],
    ids=["empty", "page", "nearly", "garbage", "half-garbage", "grown", "grown-garbage"],
)
def test_a_damaged_file_is_repaired_in_place(store: ChunkStore, left_behind: bytes, refetched: bool) -> None:
    path = put_file(store, WINDOW, left_behind)
    inode = path.stat().st_ino
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source, background=False)
    assert attachment.read(0, WINDOW.start, WINDOW.length) == WINDOW_BYTES
    assert eventually(lambda: path.read_bytes() == WINDOW_BYTES)
    assert path.stat().st_ino == inode
    assert bool(source.asked) is refetched


def test_a_damaged_file_without_padding_is_known_by_its_digests_alone(store: ChunkStore) -> None:
    blob = random_blob("aligned", 2 << 20, chunk=64 << 10, per_unit=1)
    window = blob.windows[0]
    right = blob.plain[: window.length]
    path = put_file(store, window, chunk_of("garbage", 64 << 10) + right[64 << 10 : -4096])
    attachment = store.attach([blob.meta], ScriptedSource(blob), background=False)
    assert attachment.read(0, 0, window.length) == right
    assert eventually(lambda: path.read_bytes() == right)


def test_what_a_killed_filler_left_is_not_fetched_again(store: ChunkStore) -> None:
    window = max(BLOB.windows, key=lambda w: w.unit_count)
    last = BLOB.meta.unit(window.first_unit + window.unit_count - 1)
    upto = BLOB.meta.chunk(last.first_chunk).offset + 5000
    put_file(store, window, BLOB.plain[window.start : upto])
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source, background=False)
    found = attachment.read(0, window.start, window.length)
    assert found == BLOB.plain[window.start : window.start + window.length]
    assert [(asked.offset, asked.size) for asked in source.asked] == [
        (last.compressed_offset, last.compressed_size)
    ]


@pytest.mark.parametrize("how", ["cut", "emptied", "deleted", "link", "fifo"])
def test_a_window_damaged_behind_a_live_attachment_is_fetched_again(store: ChunkStore, how: str) -> None:
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source)
    assert attachment.wait_complete(10)
    path = file_of(store, WINDOW)
    if how in ("cut", "emptied"):
        os.truncate(path, 4096 if how == "cut" else 0)
    else:
        path.unlink()
    if how == "link":
        path.symlink_to("/etc/passwd")
    if how == "fifo":
        os.mkfifo(path)
    assert attachment.read(0, WINDOW.start, WINDOW.length) == WINDOW_BYTES
    assert eventually(lambda: attachment.progress().complete)
    assert path.read_bytes() == WINDOW_BYTES and not path.is_symlink()


def test_an_unreadable_complete_file_is_bypassed(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source)
    assert attachment.wait_complete(10)
    monkeypatch.setattr(store.open_windows, "read", lambda *_: None)
    monkeypatch.setattr(store.open_windows, "read_prefix", lambda *_: None)
    before = source.sent
    assert attachment.read(0, WINDOW.start, 10) == WINDOW_BYTES[:10]
    assert attachment.read(0, WINDOW.start + 10, 10) == WINDOW_BYTES[10:20]
    assert eventually(
        lambda: (
            source.sent - before == WINDOW.compressed_end - WINDOW.compressed_start
            and attachment.progress().windows_awaited == 0
        )
    )


def full_disk(monkeypatch: pytest.MonkeyPatch, room: int, error: int = errno.ENOSPC) -> list[int]:
    """Let the file system take *room* bytes more; the returned list's only entry is what is left."""
    left = [room]
    really_write = LockedWindow.write

    def write(self: LockedWindow, offset: int, pieces: list[bytes]) -> None:
        content = b"".join(pieces)
        taken, left[0] = min(left[0], len(content)), max(0, left[0] - len(content))
        really_write(self, offset, [content[:taken]] if taken else [])
        if taken < len(content):
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(LockedWindow, "write", write)
    return left


@pytest.mark.parametrize("room", [0, 150_000, 1_000_000])
def test_a_full_disk_serves_readers_from_memory_and_stops_filling(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    store = open_store(limits=Limits(memory_bytes=1))
    left = full_disk(monkeypatch, room)
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source)
    assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
    with pytest.raises(StoreFull, match="No space left on device"):
        attachment.wait_complete(10)
    assert attachment.progress().trouble is not None
    assert eventually(lambda: any(record.levelno >= logging.ERROR for record in caplog.records))
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1

    def settled() -> bool:
        # What a reader was served from is kept a moment later, and drops what was kept before.
        return eventually(lambda: not attachment.progress().windows_awaited)

    assert settled()
    assert attachment.read(0, len(BLOB.plain) - 10, 10) == BLOB.plain[-10:]
    assert settled()
    asked = len(source.asked)
    assert attachment.read(0, len(BLOB.plain) - 20, 10) == BLOB.plain[-20:-10]
    assert len(source.asked) == asked
    left[0] = 1 << 40

    def filled() -> bool:
        assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
        try:
            return attachment.wait_complete(1)
        except StoreFull:
            return (
                False  # a window that was refused before there was room is settled after one that was taken
            )

    assert eventually(filled)


@pytest.mark.parametrize(
    ("readers", "said"),
    [
        (Readers.HERE, "; readers are served from memory"),
        (Readers.OF_FILES, "; kernel mounts meanwhile answer reads of absent data with errors"),
        (Readers.NONE, ""),
    ],
)
def test_what_is_said_of_a_full_disk_is_true_for_those_who_read(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch, readers: Readers, said: str
) -> None:
    full_disk(monkeypatch, 0)
    attachment = store.attach([BLOB.meta], ScriptedSource(BLOB), readers=readers)
    with pytest.raises(StoreFull) as full:
        attachment.wait_complete(10)
    assert f"free){said}; free some there" in str(full.value)


def test_full_inodes_are_as_a_full_disk(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> LockedWindow:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(WindowDirectory, "try_lock", refuse)
    attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
    assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain


def test_a_file_cut_while_it_is_filled_never_gets_a_hole(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    window = max(BLOB.windows, key=lambda w: w.length)
    path = file_of(store, window)

    def cut_once(_: Asked, sent: int) -> None:
        if sent > 300_000 and len(source.asked) == 1:
            os.truncate(path, 10_000)

    source.on_piece = cut_once
    attachment = store.attach([BLOB.meta], source, background=False)
    expected = BLOB.plain[window.start : window.start + window.length]
    assert attachment.read(0, window.start, window.length) == expected
    assert eventually(lambda: path.read_bytes() == expected)


def test_a_root_that_is_no_directory_is_refused(tmp_path: Path, open_store: OpenStore) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="choose another"):
        open_store(tmp_path / "file" / "store")
