"""How long, how many, how much: the store's tunables, with the reason for each default.

The link must stay full, and yet a miss must find little in front of it. At 200 Mbit/s and 20 ms, 500 KB are
on the way when the link is full; a window has about 350 KB compressed. Measured on an emulated link of that
kind (a program that touches 45 windows one after another in an image of 86 MB, 30 of them on its hot list;
median of six orders): ready after 1.12 s with these numbers, 1.32 s if the background keeps three ranges in
flight while the program runs, 1.54 s if the hot list is held to one range of half the size.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, counts and compressed bytes."""

    # A reader gets its bytes or an error within 30 s. Not this many: who has waited for a page behind another
    # reader may wait a little longer (`recent_failures`), and a busy machine takes its time, too.
    read_seconds: float = 25.0
    fetch_seconds: float = 60.0  # a fetch that somebody waits for is retried this long
    elsewhere_seconds: float = 10.0  # another process stands still in the middle of a window: fetch beside it
    demand_connections: int = 8  # distinct windows missed at the same time
    # Of windows that wait for a connection and lie next to each other. A range costs Debian's registry 6 to
    # 9 ms of processor time whether it has 128 KiB or 4 MiB; at 200 Mbit/s this much is 80 ms.
    demand_range: int = 2 << 20
    bulk_connections: int = (
        3  # ranges of hot list and background in flight; a third one hides the others' ends
    )
    hot_while_waiting: int = 2  # of these while a reader waits, and behind a stream: both will be waited for
    background_while_busy: int = 1  # of these, while readers keep missing; 0 while one waits
    busy_seconds: float = 0.15  # readers "keep missing" this long after the last one was answered
    # So long after attaching, a program is starting: it computes between its misses, and gets both processor
    # and link. Measured: 0.2 to 0.3 s of 2 on two processors.
    start_seconds: float = 2.0
    start_busy_seconds: float = 0.4  # readers "keep missing" this long then, and no background runs meanwhile
    bulk_range: int = 1 << 20  # one of the three hides a round trip of 20 ms behind 80 ms of bytes
    tail: int = 700 << 10  # a miss brings what lies behind it in the same request, up to this
    memory_bytes: int = 8 << 20  # windows kept in memory while the file system takes none
    cache_bytes: int | None = None  # that windows may occupy; None: what the file system has
