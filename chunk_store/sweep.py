"""Frees what nothing needs, and more if asked: leftovers always, windows nobody has attached for long,
windows beyond a size, all of them. What is held is never touched.

Least recently attached goes first (`attached`). Serves `nopull cache gc` and, through `evict`, the limit of a
running store (`quota`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from chunk_store import local_chunks, sums
from chunk_store.attached import LastUse, forget_unused, last_uses
from chunk_store.window_file import Removal, WindowDirectory

_NEVER = LastUse(live=False, seconds=0.0)
_DAY = 86_400.0


class Kept(NamedTuple):
    """A window's file with bytes in it."""

    window_id: str
    size: int  # bytes
    use: LastUse
    written: float  # mtime, seconds since the epoch


@dataclass(frozen=True, slots=True)
class Freed:
    """What went, and what stayed although it was to go."""

    windows: int
    freed_bytes: int
    empty: int  # files without a byte
    held: int  # windows that stayed, because something has them attached or holds them
    images: int  # sets of windows that nobody had attached for the time given
    windows_left: int
    bytes_left: int
    foreign: int  # entries that are no windows; they are nobody's, so they stay


def sweep(
    root: Path, *, size: int | None = None, unused_days: float | None = None, everything: bool = False
) -> Freed:
    """Free what nobody needs; of the rest as much as asked. The caller has opened the store.

    Parameters:
        size: at most this many bytes stay, if nothing holds more.
        unused_days: what was not attached for this many days goes, unless something attached shares it.
        everything: all that is not attached and that nothing holds goes.

    Raises:
        OSError: the directory cannot be read or written.
    """
    directory = WindowDirectory(root)
    before = 0.0 if unused_days is None else time.time() - unused_days * _DAY
    if everything:
        before = float("inf")
    kept, empty, foreign = _look(directory, last_uses(root))
    images = forget_unused(root, before)
    recorded = sums.load(root)
    wanted = [one for one in kept if _is_leftover(one, recorded.get(one.window_id), before)]
    doomed = [one for one in wanted if not one.use.live]
    emptied = sum(directory.remove(window_id) is Removal.REMOVED for window_id in empty)
    freed, held = evict(directory, doomed)
    held += len(wanted) - len(doomed)
    left = [one for one in kept if directory.size(one.window_id)]
    if size is not None:
        excess = sum(one.size for one in left) - size
        more, more_held = evict(directory, in_order(left), enough=excess)
        freed, held = freed + more, held + more_held
        left = [one for one in left if directory.size(one.window_id)]
    local_chunks.keep_only(root, {one.window_id for one in left})
    return Freed(
        windows=len(freed),
        freed_bytes=sum(one.size for one in freed),
        empty=emptied,
        held=held,
        images=images,
        windows_left=len(left),
        bytes_left=sum(one.size for one in left),
        foreign=foreign,
    )


def windows_by_age(directory: WindowDirectory, root: Path) -> list[Kept]:
    """Every window with bytes in it, those that go first in front."""
    return in_order(_look(directory, last_uses(root))[0])


def in_order(kept: Iterable[Kept]) -> list[Kept]:
    """What is not attached before what is, the least recently attached and written in front."""
    return sorted(kept, key=lambda one: (one.use.live, one.use.seconds, one.written, one.window_id))


def evict(
    directory: WindowDirectory,
    candidates: Sequence[Kept],
    *,
    enough: int | None = None,
    before: Callable[[str], None] = lambda _: None,
) -> tuple[list[Kept], int]:
    """Remove *candidates* in their order until *enough* bytes are free, None: all; return (what went, how
    many are held).

    *before* is told each window that is about to go.

    Raises:
        OSError: one cannot be removed.
    """
    gone: list[Kept] = []
    freed = held = 0
    for one in candidates:
        if enough is not None and freed >= enough:
            break
        before(one.window_id)
        removal = directory.remove(one.window_id)
        held += removal is Removal.HELD
        if removal is Removal.REMOVED:
            gone.append(one)
            freed += one.size
    return gone, held


def _look(directory: WindowDirectory, uses: dict[str, LastUse]) -> tuple[list[Kept], list[str], int]:
    """(windows with bytes, ids of empty ones, number of foreign entries)"""
    kept: list[Kept] = []
    empty: list[str] = []
    foreign = 0
    for name, path in directory.names():
        size = directory.size(name)
        if not sums.is_window_id(name) or size < 0:
            foreign += 1
        elif size:
            try:
                written = Path(path).lstat().st_mtime
            except FileNotFoundError:
                continue
            kept.append(Kept(name, size, uses.get(name, _NEVER), written))
        else:
            empty.append(name)
    return kept, empty, foreign


def _is_leftover(one: Kept, record: sums.Sum | None, before: float) -> bool:
    """Whether the window is partial, or was last attached before *before*.

    Only of a recorded window can it be told that it is partial.
    """
    if record is not None and record.length != one.size:
        return True
    return (one.written if one.use is _NEVER else one.use.seconds) < before
