"""What a kernel mount was asked for first, in order: as windows for the filler, as files for `explain`.

The kernel asks only for what is absent, so what was local is not in it; `--driver fuse` sees all reads.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chunk_store.doorway import DIRECTORY_MODE
from chunk_store.keeper_client import KEEPER
from launch.whole_file import read_json_object, write_whole
from rafs.bootstrap import Bootstrap
from rafs.windows import Window

READS = "reads"  # below the keeper's directory: those of mounts that are not filled any more
KEPT = 16384


class WindowReads:
    """The first requests of each window's pieces. Any number of threads may note and list."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._found: dict[tuple[str, int], float] = {}

    def note(self, window_id: str, end: int) -> None:
        """Somebody waits for the bytes before *end* of that window."""
        if len(self._found) < KEPT:
            self._found.setdefault((window_id, end), time.monotonic() - self._began)

    def to_json(self) -> dict[str, Any]:
        """In the order of the requests: window id, last byte but one, seconds since filling began."""
        reads = [[window_id, end, round(seconds, 6)] for (window_id, end), seconds in self._found.items()]
        return {"reads": reads, "truncated": len(reads) >= KEPT}


def keep_reads(store: Path, mount_id: str, reads: WindowReads) -> None:
    """Write down the reads of a mount, for as long as it lives."""
    directory = store / KEEPER / READS
    directory.mkdir(DIRECTORY_MODE, exist_ok=True)
    write_whole(directory / mount_id, json.dumps(reads.to_json()).encode())


def kept_reads(store: Path, mount_id: str) -> dict[str, Any]:
    """What `keep_reads` has written; empty where there is nothing."""
    return read_json_object(store / KEEPER / READS / mount_id) or {"reads": [], "truncated": False}


def forget_reads(store: Path, mount_id: str) -> None:
    """The mount is gone."""
    (store / KEEPER / READS / mount_id).unlink(missing_ok=True)


class FileRead(NamedTuple):
    """A file that was read first then."""

    path: bytes
    seconds: float
    size: int


def files_of(
    reads: Iterable[Sequence[Any]], bootstrap: Bootstrap, windows: Sequence[Sequence[Window]]
) -> list[FileRead]:
    """The files that *reads* (`WindowReads.to_json`) were of, each once. *windows* are those of the blobs, in
    the order of the bootstrap's blob table.
    """
    reads = list(reads)
    found: dict[bytes, FileRead] = {}
    for read, owner in zip(reads, owners_of(reads, bootstrap, windows), strict=True):
        if owner is not None:
            path, size = owner
            found.setdefault(path, FileRead(path, read[2], size))
    return list(found.values())


def owners_of(
    reads: Iterable[Sequence[Any]], bootstrap: Bootstrap, windows: Sequence[Sequence[Window]]
) -> Iterator[tuple[bytes, int] | None]:
    """Yield path and size of the file that each of *reads* was of, None if of none. Arguments: as `files_of`;
    of a read only window and last byte but one are looked at. Walks through the whole image once.
    """
    places = {window.id: (blob, window.start) for blob, cut in enumerate(windows) for window in cut}
    starts, files = _owners(bootstrap)
    for window_id, end, *_ in reads:
        blob, start = places.get(window_id, (-1, 0))
        at = bisect_right(starts, (blob, start + end - 1)) - 1
        yield None if blob < 0 or at < 0 or starts[at][0] != blob else files[at]


def _owners(bootstrap: Bootstrap) -> tuple[list[tuple[int, int]], list[tuple[bytes, int]]]:
    """Where chunks begin, (blob, offset) in order, and which file each belongs to: (path, size)."""
    owned = sorted(_chunks(bootstrap))
    return [place for place, _ in owned], [file for _, file in owned]


def _chunks(bootstrap: Bootstrap) -> Iterator[tuple[tuple[int, int], tuple[bytes, int]]]:
    for path, inode in bootstrap.walk():
        if inode.mode >> 12 == 8:
            for extent in bootstrap.extents(inode):
                yield (extent.blob_index, extent.blob_offset), (path, inode.size)
