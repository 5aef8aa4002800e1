"""In which order the chunks of a unit lie: never what a file goes on with right behind what it goes on from.

nydusd joins the requests for chunks that a reader wants one after the other if they are neighbours in the
address space. It does so since storage commit 6603fe47 (after release 2.4.4) for batch units, too, and aborts
when both are in one: `FileCacheEntry::dispatch_backend` expects each request to end before the next begins.
Nydus' own builder puts no two chunks of a file into a unit. Chunks that are no neighbours are never joined.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Final

_LOOKS: Final = 16  # that find no place until it is given up; one does, but in files that were made up


def ordered_units(
    chunks: Sequence[bytes], continued: Container[tuple[bytes, bytes]]
) -> Iterator[list[bytes]]:
    """*chunks*, as digests, of one unit, in the order in which they are to lie; what has no place among them
    follows as units of one chunk.

    *continued* has (chunk, the one behind it in some file). Where no file has two of them in a row the order
    is the one given. Else every second chunk of a file comes first and the others behind, so who reads the
    file reads forwards in two places, which readahead can follow. Depends on nothing else.
    """
    placed: list[bytes] = []
    waiting: list[bytes] = []
    before = b""
    for chunk in chunks:
        if waiting and (before, chunk) not in continued:
            waiting = _append(placed, waiting, continued)
        before = chunk
        if placed and (placed[-1], chunk) in continued:
            waiting.append(chunk)
        else:
            placed.append(chunk)
    alone: list[bytes] = []
    for chunk in _append(placed, waiting, continued):
        at = _place(placed, chunk, continued)
        if at is None:
            alone.append(chunk)
        else:
            placed.insert(at, chunk)
    yield placed
    for chunk in alone:
        yield [chunk]


def _append(
    placed: list[bytes], waiting: Sequence[bytes], continued: Container[tuple[bytes, bytes]]
) -> list[bytes]:
    """Put those of *waiting* behind *placed* that may lie there; the others."""
    left: list[bytes] = []
    for number, chunk in enumerate(waiting):
        if len(left) == _LOOKS:
            return [*left, *waiting[number:]]
        if (placed[-1], chunk) in continued:
            left.append(chunk)
        else:
            placed.append(chunk)
    return left


def _place(placed: Sequence[bytes], chunk: bytes, continued: Container[tuple[bytes, bytes]]) -> int | None:
    """The last place for *chunk*; None if there is none near the end."""
    end = len(placed)
    for at in range(end, max(-1, end - _LOOKS), -1):
        if (at == 0 or (placed[at - 1], chunk) not in continued) and (
            at == end or (chunk, placed[at]) not in continued
        ):
            return at
    return None
