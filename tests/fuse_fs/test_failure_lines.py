"""A mount's log names what failed, and does not fill the disk when that goes on."""

from __future__ import annotations

import pytest

from chunk_store import ChunkUnavailable
from chunk_store.seldom import SECONDS
from fuse_fs.errors import NoSuchEntry
from fuse_fs.failure_lines import MOST, FailureLines
from tests.support.clock import Clock


def failure(cause: Exception) -> ChunkUnavailable:
    error = ChunkUnavailable(f"fetching window 1: {cause}")
    error.__cause__ = cause
    return error


def test_a_failure_is_a_line_with_path_and_cause_and_a_refusal_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = FailureLines()
    lines.note("lookup", NoSuchEntry("no such name"), lambda: b"/d")
    lines.note("read", failure(ConnectionError("refused")), lambda: b"/d/f")
    (record,) = caplog.records
    assert record.getMessage() == "read /d/f: ChunkUnavailable: fetching window 1: refused"
    assert record.__dict__["path"] == "/d/f"


def test_a_reader_who_goes_on_failing_gets_a_few_lines_a_minute_and_the_number_of_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    lines = FailureLines(clock)
    looked = 0

    def path() -> bytes:
        nonlocal looked
        looked += 1
        return b"/f"

    for _ in range(1000):
        lines.note("read", failure(FileNotFoundError("gone")), path)
    assert len(caplog.records) == looked == MOST
    lines.note("read", failure(ConnectionError("refused")), lambda: b"/other")
    assert caplog.records[-1].getMessage().endswith("refused"), "another cause has lines of its own"
    clock.now += SECONDS
    lines.note("read", failure(FileNotFoundError("gone")), lambda: b"/again")
    said, count = (record.getMessage() for record in caplog.records[-2:])
    assert said.startswith("read /again: ")
    assert count == f"{1000 - MOST} more failures like this one were left out before it"
