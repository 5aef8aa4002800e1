"""What stands in the way of filling is told as long as it does, and ends a wait only where that is no use."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from chunk_store.errors import ChunkCorrupt, ChunkUnavailable, StoreForbidden, StoreFull, StoreUnusable
from chunk_store.standstill import LimitReached, Readers, Standstill


def test_nothing_stands_in_the_way_at_first() -> None:
    standstill = Standstill()
    standstill.raise_hopeless(missing=3, broken=0)
    assert standstill.reason is None


def test_a_full_disk_ends_the_wait_until_a_window_of_ours_was_written() -> None:
    standstill = Standstill()
    standstill.disk_refused(StoreFull("no space"))
    standstill.window_completed(written=False, for_reader=False)
    with pytest.raises(StoreFull, match="no space"):
        standstill.raise_hopeless(missing=3, broken=0)
    standstill.window_completed(written=True, for_reader=True)
    standstill.raise_hopeless(missing=3, broken=0)
    assert standstill.reason is None


def test_at_the_limit_a_reader_s_window_says_nothing_of_room_for_the_rest() -> None:
    standstill = Standstill()
    standstill.disk_refused(StoreFull("the limit"), at_limit=True)
    standstill.window_completed(written=True, for_reader=True)
    assert str(standstill.reason) == "the limit"
    standstill.window_completed(written=True, for_reader=False)
    assert standstill.reason is None


def test_what_cannot_be_kept_is_told_with_its_place_its_cause_and_what_to_do(tmp_path: Path) -> None:
    no_room = OSError(28, "No space left on device")
    full = Readers.NONE.refusal("0123456789abcdef99", no_room, tmp_path)
    told = re.escape(f"cannot keep window 0123456789abcdef in {tmp_path}: No space left on device")
    told += r" \(.* free\); free some there \(`nopull cache gc` may\), or .*--root"
    assert re.fullmatch(told, str(full))
    limit = Readers.HERE.refusal("01", LimitReached(122, "the limit is reached"), tmp_path)
    what_to_do = "unmount what is not needed, or give it more with --cache-size"
    assert str(limit).endswith(f": the limit is reached; readers are served from memory; {what_to_do}")
    other = Readers.HERE.refusal("01", OSError(5, "Input/output error"), tmp_path)
    what_to_do = "choose another place with --root"
    assert str(other).endswith(f": Input/output error; readers are served from memory; {what_to_do}")
    assert type(full) is type(limit) is StoreFull


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EROFS, StoreUnusable), (errno.EIO, StoreUnusable), (errno.EACCES, StoreForbidden)],
)
def test_a_disk_that_refuses_for_another_reason_than_room_is_not_called_full(
    tmp_path: Path, number: int, kind: type[Exception]
) -> None:
    standstill = Standstill()
    refused = OSError(number, os.strerror(number))
    standstill.disk_refused(Readers.NONE.refusal("01", refused, tmp_path))
    with pytest.raises(kind, match=f"{os.strerror(number)}; choose another place with --root$"):
        standstill.raise_hopeless(missing=3, broken=0)


def test_broken_windows_end_the_wait_when_nothing_else_is_missing_and_stay_told() -> None:
    standstill = Standstill()
    standstill.remote_failed(ChunkCorrupt("window 7 is wrong"))
    standstill.window_completed(written=True, for_reader=True)
    assert str(standstill.reason) == "window 7 is wrong"
    standstill.raise_hopeless(missing=3, broken=1)
    with pytest.raises(ChunkCorrupt, match="wrong at the source: 1 window: window 7"):
        standstill.raise_hopeless(missing=1, broken=1)


def test_a_remote_that_may_come_back_is_waited_for_and_another_is_not() -> None:
    standstill = Standstill()
    away, never = ChunkUnavailable("away", temporary=True), ChunkUnavailable("not there")
    standstill.remote_failed(away)
    standstill.raise_hopeless(missing=3, broken=0)
    assert str(standstill.reason) == "away"
    standstill.remote_failed(never)
    with pytest.raises(ChunkUnavailable, match="not there"):
        standstill.raise_hopeless(missing=3, broken=0)
    standstill.window_completed(written=False, for_reader=False)
    assert standstill.reason is None
