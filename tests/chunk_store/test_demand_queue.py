"""What readers wait for goes out first come first served, neighbours in one range."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_store import ChunkCorrupt, Limits
from chunk_store.demand_queue import DemandQueue
from chunk_store.fill import Fill
from chunk_store.priority import Priority
from chunk_store.window_index import WindowIndex
from tests.chunk_store.blobs import Asked, ScriptedSource, blob_of, eventually, random_blob, wait_for
from tests.chunk_store.conftest import OpenStore

_RANDOM = Random(1)
# Units above half the largest window are windows of their own, so windows can be counted.
BLOB = blob_of([[_RANDOM.randbytes(1 << 16) + bytes(15 << 16) for part in range(2)] for n in range(12)])
OTHER = random_blob("other", 3 << 20)
INDEX = WindowIndex([BLOB.meta, OTHER.meta])
ONE = INDEX[0].compressed_end
ALL = 1 << 40
LIMITS = Limits(demand_connections=1, demand_range=8 << 20)


def queue_of(*numbers: int, compressed: int = ALL) -> DemandQueue:
    queue = DemandQueue(INDEX, compressed)
    for number in numbers:
        queue.add([Fill(number, Priority.DEMAND)])
    return queue


def taken(queue: DemandQueue) -> list[int]:
    return [fill.number for fill in queue.take(1)]


def all_taken(queue: DemandQueue) -> list[list[int]]:
    """Over one connection."""
    return list(iter(lambda: taken(queue), []))


def test_who_came_first_is_served_first_and_neighbours_go_along() -> None:
    assert all_taken(queue_of(7, 3, 8, 5, 6, 1, 2)) == [[5, 6, 7, 8], [1, 2, 3]]


def test_as_long_as_there_are_connections_each_has_its_own() -> None:
    queue = queue_of(1, 2, 3, 4)
    assert [[fill.number for fill in queue.take(4 - busy)] for busy in range(5)] == [[1], [2], [3], [4], []]
    assert queue_of(1, 2).take(0) == []


def test_a_range_stays_within_its_bytes_and_takes_what_lies_behind_first() -> None:
    assert all_taken(queue_of(4, 2, 3, 5, 6, compressed=3 * ONE + 100)) == [[4, 5, 6], [2, 3]]
    assert all_taken(queue_of(4, 5, compressed=1)) == [[4], [5]]


def test_no_range_goes_from_one_blob_into_another() -> None:
    last = len(BLOB.windows) - 1
    assert all_taken(queue_of(last, last + 1, last + 2)) == [[last], [last + 1, last + 2]]


def test_what_has_to_go_alone_goes_alone() -> None:
    queue = queue_of(3)
    queue.add([Fill(4, Priority.DEMAND)], alone=True)
    queue.add([Fill(5, Priority.DEMAND)])
    queue.add([Fill(6, Priority.DEMAND)])
    assert all_taken(queue) == [[3], [4], [5, 6]]


def test_a_run_keeps_what_it_takes_along() -> None:
    queue = DemandQueue(INDEX, ALL)
    queue.add([Fill(4, Priority.DEMAND), Fill(5, Priority.BACKGROUND)])
    queue.add([Fill(6, Priority.DEMAND)])
    queue.add([Fill(3, Priority.DEMAND)])
    assert all_taken(queue) == [[3, 4, 5, 6]]


@given(
    st.permutations(range(len(BLOB.windows))),
    st.sets(st.integers(0, len(BLOB.windows) - 1)),
    st.integers(1, 6),
)
def test_each_window_leaves_once_in_a_range_without_holes(
    order: list[int], alone: set[int], most: int
) -> None:
    queue = DemandQueue(INDEX, most * ONE + 100)
    for number in order:
        queue.add([Fill(number, Priority.DEMAND)], alone=number in alone)
    ranges = all_taken(queue)
    assert sorted(number for numbers in ranges for number in numbers) == sorted(order)
    left = list(order)
    for numbers in ranges:
        assert left[0] in numbers
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len(numbers) == 1 or (len(numbers) <= most and not alone & {*numbers})
        left = [number for number in left if number not in numbers]
    assert len(queue) == 0


def test_readers_who_wait_for_a_connection_share_one_request(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    gate = threading.Event()
    source.on_request = lambda _: wait_for(gate)
    attachment = open_store(limits=LIMITS).attach([BLOB.meta], source, background=False)
    windows = BLOB.windows[:7]
    with ThreadPoolExecutor(len(windows)) as pool:
        first = pool.submit(attachment.read, 0, windows[0].start, windows[0].length)
        assert eventually(lambda: len(source.asked) == 1)
        rest = [pool.submit(attachment.read, 0, one.start, one.length) for one in windows[2:]]
        assert eventually(lambda: attachment.progress().windows_awaited == len(windows) - 1)
        gate.set()
        for window, read in zip((windows[0], *windows[2:]), (first, *rest), strict=True):
            assert read.result() == BLOB.plain[window.start : window.start + window.length]
    size = windows[-1].compressed_end - windows[2].compressed_start
    assert source.asked[1:] == [Asked(BLOB.meta.id, windows[2].compressed_start, size)]


def test_a_wrong_window_fails_its_own_reader_and_no_neighbours(open_store: OpenStore) -> None:
    source = ScriptedSource(BLOB)
    gate = threading.Event()
    source.on_request = lambda _: wait_for(gate)
    source.flip(BLOB, BLOB.windows[3].compressed_start + 1000, times=1000)
    attachment = open_store(limits=LIMITS).attach([BLOB.meta], source, background=False)
    with ThreadPoolExecutor(4) as pool:
        pool.submit(attachment.read, 0, 0, 1)
        assert eventually(lambda: len(source.asked) == 1)
        reads = [pool.submit(attachment.read, 0, one.start, one.length) for one in BLOB.windows[2:5]]
        assert eventually(lambda: attachment.progress().windows_awaited == 4)
        gate.set()
        for number, read in enumerate(reads, 2):
            if number == 3:
                with pytest.raises(ChunkCorrupt, match="window 3 of"):
                    read.result()
            else:
                window = BLOB.windows[number]
                assert read.result() == BLOB.plain[window.start : window.start + window.length]
