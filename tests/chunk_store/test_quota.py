"""`--cache-size`: the limit holds, the least recently attached goes first, readers get every byte."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from chunk_store import Attachment, ChunkStore, Readers, StoreFull
from chunk_store.attached import NAME
from chunk_store.limits import Limits
from chunk_store.standstill import LimitReached
from tests.chunk_store.blobs import Asked, Blob, ScriptedSource, eventually, random_blob
from tests.chunk_store.conftest import OpenStore

FIRST, SECOND, THIRD = (random_blob(("quota", number), 3 << 20) for number in range(3))
LARGE = random_blob("larger than the cache", 8 << 20)


def occupied(root: Path) -> int:
    total = 0
    for path in root.glob("windows/*/*"):
        with suppress(FileNotFoundError):  # evicted while we count
            total += path.stat().st_size
    return total


def local(root: Path, blob: Blob) -> int:
    return sum((root / "windows" / w.id[:2] / w.id).is_file() for w in blob.windows)


def fill(store: ChunkStore, blob: Blob, mounted_at: float) -> None:
    """Make *blob* local, as an image that was mounted last at *mounted_at*."""
    attachment = store.attach([blob.meta], ScriptedSource(blob))
    assert attachment.wait_complete(20)
    attachment.close()
    newest = max((store.root / NAME).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    os.utime(newest, (mounted_at, mounted_at))


def read_by_window(attachment: Attachment) -> None:
    """Read all of LARGE, and leave time behind each window in which another could be fetched."""
    for window in LARGE.windows:
        begin = window.start
        assert attachment.read(0, begin, window.length) == LARGE.plain[begin : begin + window.length]
        time.sleep(0.02)


def test_the_least_recently_attached_image_makes_room(open_store: OpenStore) -> None:
    limit = int(2.5 * len(FIRST.plain))
    store = open_store(limits=Limits(cache_bytes=limit))
    fill(store, FIRST, 2_000_000.0)
    fill(store, SECOND, 1_000_000.0)
    source = ScriptedSource(THIRD)
    sizes = []

    def measure(_: Asked) -> None:
        sizes.append(occupied(store.root))

    source.on_request = measure
    attachment = store.attach([THIRD.meta], source)
    assert attachment.wait_complete(20)
    assert max([*sizes, occupied(store.root)]) <= limit
    assert local(store.root, FIRST) == len(FIRST.windows) and local(store.root, SECOND) < len(SECOND.windows)
    assert attachment.read(0, 0, len(THIRD.plain)) == THIRD.plain


def test_at_the_limit_filling_stops_and_readers_get_every_byte(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    limit = len(LARGE.plain) // 2
    store = open_store(limits=Limits(cache_bytes=limit))
    source = ScriptedSource(LARGE)
    attachment = store.attach([LARGE.meta], source)
    with pytest.raises(StoreFull, match="limit of"):
        attachment.wait_complete(20)
    assert source.sent < LARGE.unit_bytes
    random = Random(4)
    for _ in range(200):
        offset = random.randrange(len(LARGE.plain))
        size = random.randint(1, 200_000)
        end = min(offset + size, len(LARGE.plain))
        assert attachment.read(0, offset, end - offset) == LARGE.plain[offset:end]
        assert occupied(store.root) <= limit
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1


def test_at_the_limit_a_reader_who_goes_on_has_nothing_fetched_for_nobody(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunk_store.quota._LEAST_SLACK", 2)  # room for two windows, as in a store of 50 MB
    limits = Limits(cache_bytes=len(LARGE.plain) // 2, start_seconds=0.0, busy_seconds=0.0)
    store = open_store(limits=limits)
    attachment = store.attach([LARGE.meta], ScriptedSource(LARGE))
    assert eventually(lambda: "limit of" in (attachment.progress().trouble or ""))
    read_by_window(attachment)  # meanwhile the last that was begun before arrives
    before = attachment.progress()
    read_by_window(attachment)
    now = attachment.progress()
    assert now.background == before.background
    assert now.demand.windows > before.demand.windows


def test_room_that_readers_made_is_theirs_until_something_else_goes(open_store: OpenStore) -> None:
    store = open_store(limits=Limits(cache_bytes=len(LARGE.plain) // 2))
    attachment = store.attach([LARGE.meta], ScriptedSource(LARGE), background=False)
    read_by_window(attachment)
    quota = store.quota
    assert quota is not None and occupied(store.root) < quota.limit
    with pytest.raises(LimitReached):
        quota.make_room("for nobody", 1, demand=False)
    quota.make_room("for a reader", 1, demand=True)
    attachment.close()
    time.sleep(1.1)  # so long a refusal holds
    quota.make_room("for nobody", 1 << 20, demand=False)


def test_it_is_said_that_kernel_mounts_go_beyond_the_limit(open_store: OpenStore) -> None:
    store = open_store(limits=Limits(cache_bytes=1))
    attachment = store.attach([FIRST.meta], ScriptedSource(FIRST), readers=Readers.OF_FILES)
    with pytest.raises(StoreFull, match="can go; what is read of kernel mounts goes beyond it"):
        attachment.wait_complete(20)


def test_what_is_held_stays_and_readers_are_served_from_memory(open_store: OpenStore) -> None:
    fill(open_store(), FIRST, 1_000_000.0)
    store = open_store(limits=Limits(cache_bytes=len(FIRST.plain)))
    held = [path.open("rb") for path in store.root.glob("windows/*/*")]
    attachment = store.attach([SECOND.meta], ScriptedSource(SECOND), background=False)
    assert attachment.read(0, 0, len(SECOND.plain)) == SECOND.plain
    assert local(store.root, FIRST) == len(FIRST.windows) and local(store.root, SECOND) == 0
    for file in held:
        file.close()


def test_a_limit_below_one_window_keeps_nothing_and_serves_all(open_store: OpenStore) -> None:
    store = open_store(limits=Limits(cache_bytes=1))
    attachment = store.attach([FIRST.meta], ScriptedSource(FIRST))
    assert attachment.read(0, 0, len(FIRST.plain)) == FIRST.plain
    assert occupied(store.root) == 0
