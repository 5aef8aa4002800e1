"""All windows of an attachment in one numbering, over all its blobs.

Window numbers are dense: blob 0's windows first, in blob order. Two numbers may stand for the same window
(the same content in two blobs, or twice in one); `original` maps each to the lowest, which is the one whose
state, fetch and file count. Pure arithmetic, immutable after construction, free to share between threads.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from chunk_store.errors import RangeOutside
from rafs.blob_meta import BlobMeta
from rafs.windows import Window, cut_windows


class WindowIndex:
    """The windows of *blobs*; `len()` counts numbers, duplicates included."""

    def __init__(self, blobs: Sequence[BlobMeta]) -> None:
        self.blobs = tuple(blobs)
        self._windows: list[Window] = []
        self._blob_of = array("H")
        self._first = array("L")
        self._starts: list[array[int]] = []
        self.original = array("L")
        seen: dict[str, int] = {}
        for number, blob in enumerate(self.blobs):
            windows = cut_windows(blob)
            self._first.append(len(self._windows))
            self._starts.append(array("Q", (window.start for window in windows)))
            for window in windows:
                self.original.append(seen.setdefault(window.id, len(self._windows)))
                self._windows.append(window)
                self._blob_of.append(number)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> Window:
        return self._windows[number]

    def distinct(self) -> Iterator[int]:
        """The numbers that stand for themselves, ascending."""
        return (number for number, original in enumerate(self.original) if number == original)

    def blob_index(self, number: int) -> int:
        """Which blob, by its place in `blobs`, window *number* is cut from."""
        return self._blob_of[number]

    def blob(self, number: int) -> BlobMeta:
        """The blob window *number* is cut from."""
        return self.blobs[self._blob_of[number]]

    def name(self, number: int) -> str:
        """What window *number* is called in front of people."""
        window = self._windows[number]
        return f"window {window.index} of blob {self.blob(number).id} (window id {window.id[:16]})"

    def pieces(self, blob_index: int, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield (window number, start in the window, end in the window) that together are bytes [offset,
        offset+size) of the blob.

        Raises:
            RangeOutside: some of these bytes lie in no window.
        """
        end = offset + size
        if not 0 <= blob_index < len(self.blobs) or offset < 0 or size < 0:
            raise RangeOutside(
                f"reading {size} bytes at {offset} of blob {blob_index}: there are {len(self.blobs)} blobs"
            )
        while offset < end:
            place = bisect_right(self._starts[blob_index], offset) - 1
            number = self._first[blob_index] + place
            window = self._windows[number] if place >= 0 else None
            if window is None or offset >= window.start + window.length:
                raise RangeOutside(
                    f"reading {size} bytes up to {end} of blob {self.blobs[blob_index].id}: "
                    f"no window holds byte {offset}; "
                    f"the blob has {self.blobs[blob_index].uncompressed_size} bytes"
                )
            upto = min(end, window.start + window.length)
            yield number, offset - window.start, upto - window.start
            offset = upto

    def adjacent(self, number: int, gap: int) -> bool:
        """Whether one range serves *number* and the next: same blob, at most *gap* unwanted bytes between."""
        if number + 1 >= len(self) or self._blob_of[number] != self._blob_of[number + 1]:
            return False
        return 0 <= self._windows[number + 1].compressed_start - self._windows[number].compressed_end <= gap
