"""In which order the chunks of a unit lie: never what a file goes on with right behind what it goes on from.

nydusd joins the requests for chunks that a reader wants one after the other if they are neighbours in the
address space. It does so since storage commit 6603fe47 (after release 2.4.4) for batch units, too, and aborts
when both are in one: `FileCacheEntry::dispatch_backend` expects each request to end before the next begins.
Nydus' own builder puts no two chunks of a file into a unit. Chunks that are no neighbours are never joined.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Final

_LOOK_BACK: Final = 16  # places tried for one chunk; the first or second does, but in files that were made up


def ordered_units(
    chunks: Sequence[bytes], continued: Container[tuple[bytes, bytes]]
) -> Iterator[list[bytes]]:
    """*chunks*, as digests, of one unit, in the order in which they are to lie; what has no place among them
    follows as units of one chunk.

    *continued* has (chunk, the one behind it in some file). Where no file has two of them in a row the order
    is the one given; else neighbours change places. Depends on nothing else.
    """
    placed: list[bytes] = []
    left: Sequence[bytes] = chunks
    for _ in range(2):  # once more those that had no place while there were fewer
        alone: list[bytes] = []
        for chunk in left:
            at = _place(placed, chunk, continued)
            if at is None:
                alone.append(chunk)
            else:
                placed.insert(at, chunk)
        left = alone
    yield placed
    for chunk in left:
        yield [chunk]


def _place(placed: Sequence[bytes], chunk: bytes, continued: Container[tuple[bytes, bytes]]) -> int | None:
    """The last place for *chunk*; None if there is none near the end."""
    end = len(placed)
    for at in range(end, max(-1, end - _LOOK_BACK), -1):
        if (at == 0 or (placed[at - 1], chunk) not in continued) and (
            at == end or (chunk, placed[at]) not in continued
        ):
            return at
    return None
