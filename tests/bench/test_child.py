"""Children end when they are told to, and so does what they have started."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.child import start_child, stop_session
from bench.errors import ProgramMissing

WAITS = "trap 'echo told' TERM; sh -c 'echo started; exec sleep 100' & wait; wait; echo ended"


def await_line(file: Path, line: str) -> None:
    end = time.monotonic() + 10
    while line not in file.read_text().splitlines():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_program_that_waits_for_what_it_started_ends_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = start_child(["sh", "-c", WAITS], stdout=log)
    await_line(log, "started")
    stop_session(child, seconds=50)
    assert child.returncode == 0, "it came to its own end"
    assert {"told", "ended"} <= set(log.read_text().splitlines())


def test_a_program_that_has_ended_can_be_stopped_once_more(tmp_path: Path) -> None:
    child = start_child(["true"], stdout=tmp_path / "log")
    child.wait(10)
    stop_session(child)
    assert child.returncode == 0


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramMissing, match=r"starting no-such-program: no such program; ./dev setup"):
        start_child(["no-such-program"], stdout=tmp_path / "log")
