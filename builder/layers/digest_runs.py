"""The digests of a sparse file's chunks: a hole is one digest, however long it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import overload


@dataclass(slots=True)
class DigestRuns(Sequence[bytes]):
    """Reads as the digest of every chunk; `runs` are (digest, how many times in a row)."""

    runs: list[tuple[bytes, int]] = field(default_factory=list)

    def add(self, digest: bytes, count: int = 1) -> None:
        """*count* further chunks have *digest*."""
        self.runs.append((digest, count))

    def __len__(self) -> int:
        return sum(count for _, count in self.runs)

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(repeat(digest, count) for digest, count in self.runs)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return list(self)[index]


def runs_of(digests: Sequence[bytes]) -> Iterable[tuple[bytes, int]]:
    """*digests* as (digest, how many times in a row); the runs need not be the longest."""
    return digests.runs if isinstance(digests, DigestRuns) else zip(digests, repeat(1), strict=False)
