"""Reading through a store: right bytes, fetched once, served as early as they are verified."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from chunk_store import ChunkStore, Limits, RangeOutside
from tests.chunk_store.blobs import (
    Asked,
    Blob,
    ScriptedSource,
    blob_of,
    chunk_of,
    eventually,
    page_cache,
    random_blob,
    wait_for,
)
from tests.chunk_store.conftest import OpenStore

BLOB = random_blob("store", 6 << 20)
OTHER = random_blob("other", 2 << 20)


def units_of(blob: Blob, first: int, count: int) -> list[list[bytes]]:
    """The chunks of some of the units of *blob*, to build another blob from."""
    units = [blob.meta.unit(index) for index in range(first, first + count)]
    chunks = [
        [blob.meta.chunk(index) for index in range(unit.first_chunk, unit.first_chunk + unit.chunk_count)]
        for unit in units
    ]
    return [[blob.plain[chunk.offset : chunk.offset + chunk.size] for chunk in unit] for unit in chunks]


def test_a_read_returns_exactly_the_bytes_of_the_blob(store: ChunkStore) -> None:
    attachment = store.attach([BLOB.meta, OTHER.meta], ScriptedSource(BLOB, OTHER))
    for blob_index, blob in enumerate((BLOB, OTHER)):
        for offset, size in ((0, 1), (4095, 2), (1_000_000, 300_000), (len(blob.plain) - 5, 5), (7, 0)):
            assert attachment.read(blob_index, offset, size) == blob.plain[offset : offset + size]
    assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain


@pytest.mark.parametrize(("blob", "offset", "size"), [(0, len(BLOB.plain) - 1, 2), (1, 0, 1), (0, -1, 1)])
def test_a_read_outside_the_blob_is_refused(store: ChunkStore, blob: int, offset: int, size: int) -> None:
    attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
    with pytest.raises(RangeOutside, match="reading"):
        attachment.read(blob, offset, size)


def test_without_background_only_what_is_read_is_fetched(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source, background=False)
    window = BLOB.windows[2]
    attachment.read(0, window.start, 10)
    assert source.asked == [
        Asked(BLOB.meta.id, window.compressed_start, window.compressed_end - window.compressed_start)
    ]


def test_whether_bytes_are_local_is_told_without_fetching_them(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source, background=False)
    window = BLOB.windows[2]
    assert not attachment.is_local(0, window.start, 10) and source.asked == []
    attachment.read(0, window.start, window.length)
    assert eventually(lambda: attachment.is_local(0, window.start, window.length))
    assert not attachment.is_local(0, window.start - 1, 2)
    with pytest.raises(RangeOutside):
        attachment.is_local(0, len(BLOB.plain), 1)
    assert len(source.asked) == 1


def test_what_is_local_is_read_without_the_remote_and_what_is_not_is_left(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_cache(monkeypatch)
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source, background=False)
    first, second = BLOB.windows[:2]
    into = memoryview(bytearray(1000))
    assert not attachment.read_into(into, 0, first.start, from_disk=True)
    assert source.asked == [] and attachment.progress().touched_windows == 0
    attachment.read(0, first.start, first.length)
    assert eventually(lambda: attachment.is_local(0, first.start, first.length))
    for from_disk in (True, False):
        into[:] = bytes(1000)
        assert attachment.read_into(into, 0, first.start + 5, from_disk=from_disk)
        assert into == BLOB.plain[first.start + 5 : first.start + 1005]
        assert not attachment.read_into(into, 0, second.start - 1, from_disk=from_disk)
    attachment.read(0, second.start, second.length)
    assert eventually(lambda: attachment.is_local(0, second.start, second.length))
    assert attachment.read_into(into, 0, second.start - 50, from_disk=True)
    assert into == BLOB.plain[second.start - 50 : second.start + 950]
    with pytest.raises(RangeOutside):
        attachment.read_into(into, 0, len(BLOB.plain), from_disk=True)
    assert len(source.asked) == 2


def test_files_are_made_before_anybody_reads_and_nothing_is_fetched_for_that(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source, background=False)
    attachment.read(0, 0, BLOB.windows[0].length)
    before = len(source.asked)
    attachment.make_files()
    sizes = {name: store.directory.size(name) for name, _ in store.directory.names()}
    assert sizes == {window.id: 0 if window.index else window.length for window in BLOB.windows}
    assert len(source.asked) == before
    assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain


def test_no_files_are_made_for_what_is_closed(store: ChunkStore) -> None:
    attachment = store.attach([BLOB.meta], ScriptedSource(BLOB), background=False)
    attachment.close()
    attachment.make_files()
    assert not list(store.directory.names())


def test_every_byte_travels_once_whoever_asks_how_often(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    attachment = store.attach([BLOB.meta], source)
    with ThreadPoolExecutor(16) as pool:
        offsets = [number * 131_072 for number in range(len(BLOB.plain) // 131_072)] * 4
        reads = list(
            pool.map(lambda at: attachment.read(0, at, 131_072) == BLOB.plain[at : at + 131_072], offsets)
        )
    assert all(reads)
    assert attachment.wait_complete(10)
    assert source.sent == BLOB.unit_bytes


def test_threads_that_wait_for_one_window_share_one_request(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    gate = threading.Event()
    source.on_request = lambda _: wait_for(gate)
    attachment = store.attach([BLOB.meta], source, background=False)
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(attachment.read, 0, 10 * number, 10) for number in range(8)]
        gate.set()
        assert [read.result() for read in reads] == [BLOB.plain[10 * n : 10 * n + 10] for n in range(8)]
    assert len(source.asked) == 1


def test_distinct_windows_are_asked_for_at_the_same_time(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    together = threading.Barrier(5)

    def meet(_: Asked) -> None:
        together.wait(10)

    source.on_request = meet
    attachment = store.attach([BLOB.meta], source, background=False)
    with ThreadPoolExecutor(5) as pool:
        windows = BLOB.windows[:5]
        reads = list(pool.map(lambda window: attachment.read(0, window.start, 1), windows))
    assert reads == [BLOB.plain[window.start : window.start + 1] for window in windows]


def test_a_verified_prefix_is_served_while_the_rest_still_travels(store: ChunkStore) -> None:
    blob = blob_of([[chunk_of(("prefix", n), 100_000) for n in range(10)]])
    source = ScriptedSource(blob)
    source.piece = 1 << 14
    gate = threading.Event()
    half = blob.unit_bytes // 2
    source.on_piece = lambda _, sent: wait_for(gate) if sent > half else None
    attachment = store.attach([blob.meta], source)
    assert attachment.read(0, 0, 100_000) == blob.plain[:100_000]
    assert attachment.progress().windows_present == 0
    gate.set()
    assert attachment.read(0, 0, len(blob.plain)) == blob.plain
    assert len(source.asked) == 1


def test_windows_of_one_range_complete_one_by_one(open_store: OpenStore) -> None:
    store = open_store(limits=Limits(bulk_range=2 << 20))
    source = ScriptedSource(BLOB)
    gate = threading.Event()
    first, second = BLOB.windows[:2]

    def stall_behind_first(asked: Asked, sent: int) -> None:
        if asked.offset + sent >= first.compressed_end:
            wait_for(gate)

    source.on_piece = stall_behind_first
    source.piece = 10_000
    attachment = store.attach([BLOB.meta], source, hot=[(0, 0, second.start + 1)], background=False)
    assert eventually(lambda: attachment.progress().windows_present == 1)
    assert attachment.read(0, 0, first.length) == BLOB.plain[: first.length]
    gate.set()
    assert eventually(lambda: attachment.progress().windows_present == 2)
    assert source.asked == [Asked(BLOB.meta.id, 0, second.compressed_end)]


def test_two_attachments_of_one_image_fetch_it_once(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    attachments = [store.attach([BLOB.meta], source) for _ in range(2)]
    assert all(attachment.wait_complete(20) for attachment in attachments)
    assert source.sent == BLOB.unit_bytes


def test_what_is_local_needs_no_remote(store: ChunkStore) -> None:
    first = store.attach([BLOB.meta], ScriptedSource(BLOB))
    assert first.wait_complete(10)
    first.close()
    source = ScriptedSource()
    second = store.attach([BLOB.meta], source)
    assert second.progress().complete
    assert second.read(0, 0, len(BLOB.plain)) == BLOB.plain
    assert source.asked == []


def test_windows_that_two_blobs_share_are_fetched_once(store: ChunkStore) -> None:
    again = blob_of([*units_of(BLOB, 0, BLOB.meta.unit_count), [chunk_of("tail", 90_000)]])
    shared = {window.id for window in BLOB.windows} & {window.id for window in again.windows}
    assert len(shared) >= 4
    source = ScriptedSource(BLOB, again)
    attachment = store.attach([BLOB.meta, again.meta], source)
    assert attachment.wait_complete(10)
    new = sum(w.compressed_end - w.compressed_start for w in again.windows if w.id not in shared)
    assert source.sent == BLOB.unit_bytes + new
    assert attachment.read(1, 0, len(again.plain)) == again.plain
    assert attachment.progress().windows_total == len({w.id for w in BLOB.windows + again.windows})


def test_a_window_that_occurs_twice_in_one_blob_is_fetched_once(store: ChunkStore) -> None:
    unit = [chunk_of(("twice", n), 1 << 20) for n in range(4)]
    blob = blob_of([unit, unit])
    assert blob.windows[0].id == blob.windows[1].id
    source = ScriptedSource(blob)
    attachment = store.attach([blob.meta], source)
    assert attachment.wait_complete(10)
    assert attachment.read(0, 0, len(blob.plain)) == blob.plain
    assert source.sent == blob.unit_bytes // 2


def test_progress_counts_exactly_by_reason(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    demanded, hot = BLOB.windows[4], BLOB.windows[1]
    attachment = store.attach([BLOB.meta], source, hot=[(0, hot.start + 5, 1)], background=False)
    attachment.read(0, hot.start, 1)
    attachment.read(0, demanded.start + 4096, 4097)
    attachment.read(0, demanded.start + 4096, 4097)
    attachment.start_background()
    assert attachment.wait_complete(10)
    progress = attachment.progress()
    by_class = (progress.demand, progress.hot, progress.background)
    assert progress.complete and progress.windows_total == len(BLOB.windows)
    assert progress.bytes_present == progress.bytes_total == len(BLOB.plain)
    assert sum(count.compressed_bytes for count in by_class) == source.sent == BLOB.unit_bytes
    assert sum(count.requests for count in by_class) == len(source.asked)
    assert sum(count.windows for count in by_class) == len(BLOB.windows)
    assert progress.demand.windows + progress.hot.windows == 2
    assert (progress.touched_windows, progress.touched_bytes) == (2, 4096 + 8192)


def test_seconds_are_those_from_the_question_to_the_last_byte(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    source.on_request = lambda _: time.sleep(0.05)
    attachment = store.attach([BLOB.meta], source, background=False)
    began = time.monotonic()
    attachment.read(0, 0, BLOB.windows[0].length)
    assert eventually(lambda: attachment.progress().demand.windows == 1)
    assert 0.05 <= attachment.progress().demand.seconds <= time.monotonic() - began
    assert attachment.progress().background.seconds == 0


def test_a_window_asked_for_while_it_is_in_flight_counts_as_demand(store: ChunkStore) -> None:
    source = ScriptedSource(BLOB)
    begun, gate = threading.Event(), threading.Event()

    def hold(_: Asked) -> None:
        begun.set()
        wait_for(gate)

    source.on_request = hold
    attachment = store.attach([BLOB.meta], source, hot=[(0, 0, 1)], background=False)
    assert begun.wait(10)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(attachment.read, 0, 0, 10)
        assert eventually(lambda: attachment.progress().touched_windows == 1)
        assert eventually(lambda: attachment.progress().windows_awaited == 1)
        gate.set()
        assert read.result() == BLOB.plain[:10]
    assert eventually(lambda: attachment.progress().windows_present == 1)
    progress = attachment.progress()
    assert (progress.demand.windows, progress.hot.windows) == (1, 0)
    assert (progress.demand.requests, progress.hot.requests) == (0, 1)
    assert len(source.asked) == 1


def test_the_hot_list_goes_first_in_its_order(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    wanted = [BLOB.windows[5], BLOB.windows[1], BLOB.windows[3]]
    store = open_store(limits=Limits(bulk_connections=1))
    attachment = store.attach([BLOB.meta], source, hot=[(0, window.start, 1) for window in wanted])
    assert attachment.wait_complete(10)
    assert [asked.offset for asked in source.asked[:3]] == [window.compressed_start for window in wanted]
    assert attachment.progress().hot.windows == 3


def test_who_reads_one_window_after_another_finds_the_next_on_its_way(open_store: OpenStore) -> None:
    gate, both = threading.Event(), threading.Barrier(2)
    at = {window.compressed_start: window.index for window in BLOB.windows}
    source = ScriptedSource(BLOB)

    def hold(asked: Asked) -> None:
        if at[asked.offset] in (0, 4):
            wait_for(gate)
        elif at[asked.offset] in (1, 2):
            both.wait(10)  # so that there are two threads, one of which has nothing to do later

    source.on_request = hold
    limits = Limits(bulk_connections=1, hot_while_waiting=2, bulk_range=1, tail=0)
    attachment = open_store(limits=limits).attach([BLOB.meta], source)
    assert eventually(lambda: bool(source.asked))  # the background, which would hold the one connection
    first, second = BLOB.windows[1:3]
    attachment.read(0, first.start, second.start + 1 - first.start)
    attachment.read(0, BLOB.windows[3].start, 1)
    assert sorted(at[asked.offset] for asked in source.asked) == [0, 1, 2, 3]
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(attachment.read, 0, BLOB.windows[4].start, 1)
        assert eventually(lambda: any(at[asked.offset] == 5 for asked in source.asked))
        assert not read.done()
        gate.set()
        assert read.result() == BLOB.plain[BLOB.windows[4].start :][:1]


def test_a_range_is_read_to_its_end_so_that_its_connection_goes_back(store: ChunkStore) -> None:
    class Counting(ScriptedSource):
        ended = 0

        def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
            yield from super().read_at(blob_id, offset, size)
            self.ended += 1

    source = Counting(BLOB)
    attachment = store.attach([BLOB.meta], source)
    assert attachment.wait_complete(10)
    assert eventually(lambda: source.ended == len(source.asked))
