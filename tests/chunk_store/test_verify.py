"""`nopull cache verify`: flips are found and dropped, also under readers; unchecked windows are counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chunk_store.cache_verbs import cache
from chunk_store.errors import WindowsWrong
from chunk_store.verify import verify as verify_store
from chunk_store.window_file import WindowDirectory
from tests.chunk_store.blobs import ScriptedSource, random_blob
from tests.chunk_store.conftest import OpenStore
from tests.chunk_store.filler import blob_for

BLOB = random_blob("verify", 4 << 20)


def filled(open_store: OpenStore) -> Path:
    store = open_store()
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).wait_complete(20)
    store.close()
    return store.root


def flip(path: Path) -> None:
    """Change one byte and nothing else that a `stat` could tell."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(70_001)
        byte = file.read(1)[0]
        file.seek(70_001)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def verify(root: Path) -> tuple[Result, dict[str, Any]]:
    result = CliRunner().invoke(cache, ["verify", "--root", str(root), "--json"])
    return result, json.loads(result.stdout)


def window_path(root: Path, number: int) -> Path:
    window = BLOB.windows[number]
    return root / "windows" / window.id[:2] / window.id


def test_a_sound_store_is_right(open_store: OpenStore) -> None:
    root = filled(open_store)
    result, found = verify(root)
    assert result.exit_code == 0
    assert (found["right"], found["right_bytes"]) == (len(BLOB.windows), len(BLOB.plain))
    assert found["dropped"] == found["held"] == []


def test_a_flipped_bit_is_found_dropped_and_fetched_again(open_store: OpenStore) -> None:
    root = filled(open_store)
    flip(window_path(root, 2))
    result, found = verify(root)
    assert result.exit_code == 0
    assert found["dropped"] == [BLOB.windows[2].id]
    assert not window_path(root, 2).exists()
    source = ScriptedSource(BLOB)
    attachment = open_store().attach([BLOB.meta], source, background=False)
    assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
    window = BLOB.windows[2]
    assert source.sent == window.compressed_end - window.compressed_start


def test_a_mount_that_is_open_meanwhile_reads_the_right_bytes_afterwards(open_store: OpenStore) -> None:
    root = filled(open_store)
    attachment = open_store().attach([BLOB.meta], ScriptedSource(BLOB))
    assert attachment.progress().complete
    flip(window_path(root, 1))
    assert verify(root)[1]["dropped"] == [BLOB.windows[1].id]
    assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain


def test_a_wrong_window_that_is_held_is_emptied_where_it_is(open_store: OpenStore) -> None:
    root = filled(open_store)
    path, window = window_path(root, 0), BLOB.windows[0]
    flip(path)
    with path.open("rb") as holder:
        result, found = verify(root)
        assert result.exit_code == 0
        assert found["emptied"] == [window.id] and found["dropped"] == []
        assert (path.stat().st_ino, path.stat().st_size) == (os.fstat(holder.fileno()).st_ino, 0)
        source = ScriptedSource(BLOB)
        attachment = open_store().attach([BLOB.meta], source, background=False)
        assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
        assert source.sent == window.compressed_end - window.compressed_start
        assert holder.read() == BLOB.plain[window.start : window.start + window.length]


def test_a_wrong_window_that_is_being_written_is_named_and_left(open_store: OpenStore) -> None:
    root = filled(open_store)
    flip(window_path(root, 0))
    locked = WindowDirectory(root).try_lock(BLOB.windows[0].id, BLOB.windows[0].length)
    assert locked is not None
    result, found = verify(root)
    assert isinstance(result.exception, WindowsWrong)
    assert found["held"] == [BLOB.windows[0].id] and found["dropped"] == found["emptied"] == []
    locked.close()
    assert verify(root)[1]["dropped"] == [BLOB.windows[0].id]


def test_readers_who_go_on_meanwhile_get_right_bytes_or_wait(open_store: OpenStore) -> None:
    root = filled(open_store)
    attachment = open_store().attach([BLOB.meta], ScriptedSource(BLOB))
    window = BLOB.windows[1]
    right = BLOB.plain[window.start : window.start + window.length]
    attachment.read(0, window.start, 10)  # and keeps it open
    flip(window_path(root, 1))
    assert attachment.read(0, window.start, window.length) != right  # until somebody looks
    verified = threading.Event()
    after: list[bytes] = []

    def read_on() -> None:
        while not verified.is_set():
            attachment.read(0, window.start, window.length)
        after.append(attachment.read(0, window.start, window.length))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_on)
        found = verify(root)[1]
        verified.set()
        reading.result(20)
    assert [*found["dropped"], *found["emptied"]] == [window.id]
    assert after == [right]


def test_a_scrub_reads_no_faster_than_it_is_told(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = filled(open_store)
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("chunk_store.verify.time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    found = verify_store(root, rate=1 << 20)
    assert found.right == len(BLOB.windows)
    last = max(window.length for window in BLOB.windows)
    assert now[0] - 100.0 >= (len(BLOB.plain) - last) / (1 << 20)


def test_what_cannot_be_checked_is_counted(open_store: OpenStore) -> None:
    root = filled(open_store)
    (root / "windows.sums").write_text("".join((root / "windows.sums").read_text().splitlines(True)[1:]))
    recorded = {line.split()[0] for line in (root / "windows.sums").read_text().splitlines()}
    cut = next(path for path in root.glob("windows/*/*") if path.name in recorded)
    os.truncate(cut, 10_000)
    (root / "windows" / "stray").mkdir()
    (root / "windows" / "stray" / "file").write_text("")
    _, found = verify(root)
    assert (found["unrecorded"], found["partial"], found["foreign"]) == (1, 1, 1)
    assert found["right"] == len(BLOB.windows) - 2


def test_verifying_beside_a_process_that_fills_drops_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    running = subprocess.Popen([sys.executable, "-m", "tests.chunk_store.filler", root, "beside"])
    while running.poll() is None:
        if root.is_dir():
            assert verify(root)[1]["dropped"] == []
    assert running.returncode == 0
    assert verify(root)[1]["right_bytes"] == len(blob_for("beside").plain)


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    result, found = verify(tmp_path / "none")
    assert result.exit_code == 0 and found["right"] == 0
    assert not (tmp_path / "none").exists()


def test_people_are_told_in_words(open_store: OpenStore) -> None:
    root = filled(open_store)
    flip(window_path(root, 2))
    said = CliRunner().invoke(cache, ["verify", "--root", str(root)]).stdout.split("\n")
    assert f"  right     {len(BLOB.windows) - 1:>7} windows" in said[1]
    assert said[2] == "  dropped         1 windows"
