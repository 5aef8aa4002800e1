"""A store that is, or becomes, read-only: it serves what it has, the rest from memory, and says so."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunk_store import ChunkStore, StoreUnusable
from tests.chunk_store.blobs import ScriptedSource, eventually, random_blob, unmount

pytestmark = pytest.mark.system
BLOB = random_blob("read-only", 6 << 20)
HALF = BLOB.windows[len(BLOB.windows) // 2].start
COST_OF_THE_REST = BLOB.unit_bytes - BLOB.windows[len(BLOB.windows) // 2].compressed_start


def remount(place: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", place], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a store in `store` that holds the first half of BLOB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "place", tmp_path], check=True)
    with ChunkStore(tmp_path / "store", boot_id="this boot") as store:
        attachment = store.attach([BLOB.meta], ScriptedSource(BLOB), background=False)
        attachment.read(0, 0, HALF)
        windows = len([window for window in BLOB.windows if window.start < HALF])
        assert eventually(lambda: attachment.progress().windows_present == windows)
    yield tmp_path
    unmount(tmp_path)


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_read_only_store_serves_what_it_has_without_the_remote(place: Path) -> None:
    remount(place, "ro")
    with ChunkStore(place / "store", boot_id="this boot") as store:
        attachment = store.attach([BLOB.meta], ScriptedSource(), background=False)
        assert attachment.read(0, 0, HALF) == BLOB.plain[:HALF]


def test_a_read_only_store_fetches_the_rest_into_memory_and_says_so(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remount(place, "ro")
    source = ScriptedSource(BLOB)
    with ChunkStore(place / "store", boot_id="this boot") as store:
        attachment = store.attach([BLOB.meta], source)
        assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
        assert source.sent == COST_OF_THE_REST
        with pytest.raises(StoreUnusable, match=r"Read-only .*; choose another place with --root"):
            attachment.wait_complete(10)
    said = alarms(caplog)
    assert len([line for line in said if "cannot be written" in line]) == 1
    assert len(said) == 2


def test_a_store_that_turns_read_only_goes_on_and_fills_when_it_can_be_written_again(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkStore(place / "store", boot_id="this boot") as store:
        attachment = store.attach([BLOB.meta], ScriptedSource(BLOB), background=False)
        remount(place, "ro")
        assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
        assert len(alarms(caplog)) == 1
        remount(place, "rw")
        store.memory.put("none", bytearray(store.limits.memory_bytes))  # what is kept in memory goes
        assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
        assert eventually(lambda: attachment.progress().complete)


def test_after_a_new_boot_only_recorded_windows_of_a_read_only_store_are_relied_on(place: Path) -> None:
    first = BLOB.windows[0]
    path = place / "store" / "windows" / first.id[:2] / first.id
    record = place / "store" / "windows.sums"
    lines = [line for line in record.read_text().splitlines(True) if not line.startswith(first.id)]
    record.write_text("".join(lines))
    path.write_bytes(bytes(first.length))  # what a power cut leaves of a file that was not synced
    second = BLOB.windows[1]
    damaged = place / "store" / "windows" / second.id[:2] / second.id
    damaged.write_bytes(os.urandom(second.length))
    remount(place, "ro")
    source = ScriptedSource(BLOB)
    with ChunkStore(place / "store", boot_id="the next boot") as store:
        attachment = store.attach([BLOB.meta], source, background=False)
        assert attachment.read(0, 0, HALF) == BLOB.plain[:HALF]
    assert source.sent == second.compressed_end - first.compressed_start


@pytest.fixture
def read_only(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The store of `place`, where it cannot be written."""
    shown = tmp_path_factory.mktemp("shown")
    subprocess.run(["mount", "--bind", place / "store", shown], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", shown], check=True)
    yield shown
    unmount(shown)


def test_who_cannot_write_a_store_keeps_nobody_from_checking_it_after_a_new_boot(
    place: Path, read_only: Path
) -> None:
    with ThreadPoolExecutor(1) as pool, ChunkStore(read_only, boot_id="the next boot") as reading:
        writing = pool.submit(ChunkStore, place / "store", boot_id="the next boot")
        with writing.result(10) as store:
            assert store.recovery is not None and reading.recovery is not None
            assert store.recovery.kept == reading.recovery.kept > 0
            attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
            assert attachment.wait_complete(20)
        source = ScriptedSource(BLOB)
        shown = reading.attach([BLOB.meta], source, background=False)
        assert shown.read(0, 0, len(BLOB.plain)) == BLOB.plain
        assert source.sent == COST_OF_THE_REST


def test_a_read_only_place_without_a_store_is_unusable(place: Path) -> None:
    (place / "empty").mkdir()
    remount(place, "ro")
    for name in ("empty", "none"):
        with pytest.raises(StoreUnusable, match="Read-only file system"):
            ChunkStore(place / name)
