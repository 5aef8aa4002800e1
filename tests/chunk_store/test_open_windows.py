"""Descriptors are bounded, shared, and never closed under a reader."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunk_store.open_windows import OpenWindows
from chunk_store.window_file import WindowDirectory
from tests.chunk_store.blobs import page_cache

IDS = [f"{n:064x}" for n in range(40)]


@pytest.fixture
def windows(tmp_path: Path) -> OpenWindows:
    directory = WindowDirectory(tmp_path)
    for number, window_id in enumerate(IDS):
        window = directory.try_lock(window_id, 4096)
        assert window is not None
        window.write(0, [bytes([number]) * 4096])
        window.close()
    return OpenWindows(directory, limit=4)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_at_most_the_limit_stays_open(windows: OpenWindows) -> None:
    before = open_files()
    for number, window_id in enumerate(IDS):
        assert windows.read(window_id, 4096, 10, 5) == bytes([number]) * 5
    assert len(windows) == 4
    assert open_files() == before + 4
    windows.close()
    assert open_files() == before


def test_many_threads_read_right_bytes_through_few_descriptors(windows: OpenWindows) -> None:
    before = open_files()

    def read_everything(start: int) -> bool:
        order = IDS[start:] + IDS[:start]
        return all(
            windows.read(window_id, 4096, 0, 4096) == bytes([IDS.index(window_id)]) * 4096
            for window_id in order * 20
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read_everything, range(8)))
    windows.close()
    assert open_files() == before


def test_a_file_of_another_length_is_not_opened_as_complete(windows: OpenWindows) -> None:
    assert windows.read(IDS[0], 8192, 0, 1) is None
    assert windows.read_prefix(IDS[0], 0, 1) == b"\0"
    assert windows.read_prefix(IDS[0], 4096, 1) is None
    assert len(windows) == 0


def test_what_the_page_cache_has_is_read_without_waiting_and_nothing_else(
    windows: OpenWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = memoryview(bytearray(97))
    cached = page_cache(monkeypatch)

    def is_read(offset: int, size: int, *, from_disk: bool) -> bool:
        into[:] = bytes(97)
        there = windows.read_into(into[:size], IDS[1], 4096, offset, from_disk=from_disk)
        return there and into == b"\1" * size + bytes(97 - size)

    assert not is_read(0, 10, from_disk=False), "opening may wait for the disk"
    assert is_read(0, 10, from_disk=True)
    assert is_read(4000, 96, from_disk=False)
    assert not is_read(4000, 97, from_disk=False) and not is_read(4000, 97, from_disk=True), "it ends there"
    cached[0] = False
    assert not is_read(0, 10, from_disk=False) and is_read(0, 10, from_disk=True)


def test_a_window_is_locked_by_one_at_a_time(tmp_path: Path) -> None:
    directory = WindowDirectory(tmp_path)
    first = directory.try_lock(IDS[0], 4096)
    assert first is not None and directory.try_lock(IDS[0], 4096) is None
    first.close()
    second = directory.try_lock(IDS[0], 4096)
    assert second is not None and not second.complete
    second.close()
