"""Histograms: each time in its bucket, none lost among threads."""

from __future__ import annotations

import threading

from chunk_store.latencies import BOUNDS, Latencies


def test_each_time_is_counted_up_to_its_bound() -> None:
    latencies = Latencies()
    for seconds in (*BOUNDS, 0.0, 31.0, 0.5):
        latencies.add(seconds)
    now = latencies.now
    assert now.counts == (2, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
    assert sum(now.counts) == len(BOUNDS) + 3
    assert abs(now.seconds - sum(BOUNDS) - 31.5) < 1e-9


def test_none_is_lost_among_threads() -> None:
    latencies = Latencies()

    def add() -> None:
        for _ in range(2000):
            latencies.add(0.002)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(latencies.now.counts) == 8000
