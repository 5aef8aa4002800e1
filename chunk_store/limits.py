"""How long, how many, how much: the store's tunables, with the reason for each default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, counts and compressed bytes.

    The byte limits follow from one rule: the link stays full, and a demand miss finds at most about two
    windows (700 KB compressed) of other traffic in front of it. At 200 Mbit/s and 20 ms, 500 KB are on the
    way when the link is full.
    """

    read_seconds: float = 30.0  # a reader gets its bytes or an error within this
    fetch_seconds: float = 60.0  # a fetch that somebody waits for is retried this long
    elsewhere_seconds: float = (
        10.0  # another process fills the window without progress: fetch it beside it, into memory
    )
    demand_connections: int = 8  # distinct windows missed at the same time
    bulk_connections: int = 2  # hot list and background, while no reader waits
    bulk_range: int = (
        1 << 20
    )  # one round trip of 20 ms then costs a third of what its bytes take at 200 Mbit/s
    tail: int = 700 << 10  # a miss asks for the window and what follows, up to this, in the same request
    memory_bytes: int = 8 << 20  # windows kept in memory while the store takes none
