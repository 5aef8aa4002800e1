"""Readers of one attachment go before what others of the same process fetch for nobody."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from chunk_store import ChunkStore
from tests.chunk_store.blobs import Asked, ScriptedSource, eventually, random_blob, wait_for

READ, FILLED = random_blob("read", 2 << 20), random_blob("filled", 8 << 20)


def test_no_background_range_starts_while_a_reader_of_another_attachment_waits(store: ChunkStore) -> None:
    gate, asked = threading.Event(), threading.Event()
    remote = ScriptedSource(READ)

    def hold(_: Asked) -> None:
        asked.set()
        wait_for(gate)

    remote.on_request = hold
    reading = store.attach([READ.meta], remote, background=False)
    source = ScriptedSource(FILLED)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(reading.read, 0, 0, 10)
        assert asked.wait(10)
        filling = store.attach([FILLED.meta], source)
        time.sleep(0.2)  # long enough for a range to start, if it were allowed to
        assert source.asked == []
        gate.set()
        assert read.result() == READ.plain[:10]
    assert eventually(lambda: filling.progress().complete)


def test_a_reader_whose_attachment_is_closed_no_longer_holds_others_back(store: ChunkStore) -> None:
    gate, asked = threading.Event(), threading.Event()
    remote = ScriptedSource(READ)

    def hold(_: Asked) -> None:
        asked.set()
        wait_for(gate)

    remote.on_request = hold
    reading = store.attach([READ.meta], remote, background=False)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(reading.read, 0, 0, 10)
        assert asked.wait(10)
        filling = store.attach([FILLED.meta], ScriptedSource(FILLED))
        reading.close()
        assert filling.wait_complete(20)
        gate.set()
        assert read.exception(10) is not None
    assert store.waiting.windows == 0
