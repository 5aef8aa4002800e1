"""A start is timed to the right line, its program is held until looked at, and it is never left behind."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.ready_line import Start, time_start

READY = re.compile("^READY")


def python(program: str) -> list[str]:
    """Return a command that runs a Python program."""
    return [sys.executable, "-c", program]


def start(*commands: list[str], ready: re.Pattern[str] | None = READY, timeout: float = 30.0) -> Start:
    """Time a start whose counters nobody wants."""
    return time_start(commands, ready=ready, at_ready=lambda: None, timeout=timeout)


def test_program_waits_for_its_input_while_its_counters_are_read(tmp_path: Path) -> None:
    told = tmp_path / "told"
    after = f"pathlib.Path({str(told)!r}).touch()"
    program = f"import sys, pathlib; print('READY', flush=True); sys.stdin.read(); {after}"
    seen: list[bool] = []
    found = time_start(
        [python(program)], ready=READY, at_ready=lambda: seen.append(told.exists()), timeout=30
    )
    assert (found.line, found.status, seen, told.exists()) == ("READY", 0, [False], True)


def test_lines_before_the_ready_line_are_passed_over() -> None:
    assert start(python("print('warming up'); print('READY 3')")).line == "READY 3"


def test_first_line_will_do_when_no_pattern_is_given() -> None:
    assert start(python("print('anything'); print('READY')"), ready=None).line == "anything"


def test_end_of_a_silent_program_will_do_when_no_pattern_is_given() -> None:
    assert start(python("pass"), ready=None).line == ""


def test_line_without_an_end_of_line_counts() -> None:
    assert start(python("print('READY', end='')")).line == "READY"


def test_commands_before_the_program_have_ended_when_it_starts(tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert (
        start(["mkdir", str(place)], python(f"import os; os.rmdir({str(place)!r}); print('READY')")).status
        == 0
    )


def test_failing_first_command_is_named_with_its_last_words() -> None:
    with pytest.raises(BenchError, match=r"ended with 3: no such image"):
        start(
            python("import sys; print('no such image', file=sys.stderr); sys.exit(3)"),
            python("print('READY')"),
        )


def test_program_that_ends_before_it_is_ready_is_a_failure() -> None:
    with pytest.raises(BenchError, match=r"ended with 0 before it was ready: it said nothing"):
        start(python("print('almost')"))


def test_program_that_fails_after_ready_is_a_failure() -> None:
    with pytest.raises(BenchError, match=r"ended with 5"):
        start(python("import sys; print('READY'); sys.exit(5)"))


def test_program_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    own = tmp_path / "pid"
    program = (
        f"import os, sys, pathlib; pathlib.Path({str(own)!r}).write_text(str(os.getpid())); sys.stdin.read()"
    )
    with pytest.raises(BenchError, match=r"not ready within 1 s"):
        start(python(program), timeout=1.0)
    assert not Path("/proc", own.read_text(encoding="ascii")).exists()


def test_program_is_ended_when_reading_its_counters_fails(tmp_path: Path) -> None:
    pids: list[int] = []
    program = "import os, sys; print('READY', os.getpid(), flush=True); sys.stdin.read()"

    def look() -> None:
        numbers = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        pids.extend(int(number) for number in numbers if _is(int(number), program))
        raise BenchError("counters")

    with pytest.raises(BenchError, match="counters"):
        time_start([python(program)], ready=READY, at_ready=look, timeout=30)
    assert len(pids) == 1
    assert not Path(f"/proc/{pids[0]}").exists()


def _is(pid: int, program: str) -> bool:
    try:
        return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
