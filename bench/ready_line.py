"""One start, on the clock: from the first command to the line that says the program is ready.

The commands run one after the other as a user would type them; the last one is the container, whose input we
hold open so that it stays until its counters have been read. Serves `bench.startup`.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from bench.child import bound_command
from bench.errors import BenchError

END_SECONDS = 30.0
STOP_SECONDS = 2.0
PIECE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds until ready, the line that said so ('' if the program ended without one), its exit code."""

    seconds: float
    line: str
    status: int


def time_start(
    commands: Sequence[Sequence[str]],
    *,
    ready: re.Pattern[str] | None,
    at_ready: Callable[[], None],
    timeout: float,
) -> Start:
    """Run the commands and stop the clock at the first output line of the last one that *ready* matches.

    With *ready* None the first line will do, and the end of the program if it prints none. *at_ready* is
    called once, while the program still runs (unless it ended by itself); then its input is closed and its
    end awaited.

    Raises:
        BenchError: a command failed, or the program was not ready within *timeout* seconds.
    """
    with tempfile.TemporaryFile() as complaints:
        begun = time.monotonic()
        for command in commands[:-1]:
            _run_first(command, complaints, begun + timeout)
        with _started(commands[-1], complaints) as program:
            line = _await_line(program, ready, begun + timeout)
            seconds = time.monotonic() - begun
            if line is None:
                words = _last_words(complaints)
                raise BenchError(f"starting {_name(commands[-1])}: not ready within {timeout:.0f} s: {words}")
            at_ready()
            status = _end(program)
        if status != 0 or (ready is not None and not line):
            raise BenchError(
                f"starting {_name(commands[-1])}: it ended with {status}"
                f"{'' if line else ' before it was ready'}: {_last_words(complaints)}"
            )
    return Start(seconds, line, status)


def _run_first(command: Sequence[str], complaints: IO[bytes], deadline: float) -> None:
    with subprocess.Popen(
        bound_command(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=complaints,
        start_new_session=True,
    ) as running:
        try:
            status = running.wait(max(0.0, deadline - time.monotonic()))
        except BaseException:
            running.kill()
            raise
    if status != 0:
        raise BenchError(f"running {_name(command)}: it ended with {status}: {_last_words(complaints)}")


@contextlib.contextmanager
def _started(command: Sequence[str], complaints: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(
        bound_command(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        start_new_session=True,
    )
    try:
        yield program
    finally:
        _abandon(program)


def _abandon(program: subprocess.Popen[bytes]) -> None:
    """End a program that is still there: by the end of its input, by SIGTERM, by SIGKILL."""
    assert program.stdin is not None
    assert program.stdout is not None
    with contextlib.suppress(OSError):
        program.stdin.close()
    # A container's first program has no default action for SIGTERM, so the end of its input comes first.
    for last_resort in (None, signal.SIGTERM, signal.SIGKILL):
        if last_resort is not None:
            program.send_signal(last_resort)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(STOP_SECONDS)
            break
    program.stdout.close()


def _await_line(
    program: subprocess.Popen[bytes], ready: re.Pattern[str] | None, deadline: float
) -> str | None:
    """Return the line that says ready, '' if the output ended without it, None if the time is over."""
    assert program.stdout is not None
    output, unfinished = program.stdout.fileno(), b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([output], [], [], left)[0]:
            return None
        piece = os.read(output, PIECE_BYTES)
        *lines, unfinished = (unfinished + piece).split(b"\n")
        for line in [*lines, *([unfinished] if not piece and unfinished else [])]:
            text = line.decode(errors="replace")
            if ready is None or ready.search(text):
                return text
        if not piece:
            return ""
    return None


def _end(program: subprocess.Popen[bytes]) -> int:
    """Close the program's input and return its exit code; what it still prints is thrown away."""
    assert program.stdin is not None
    assert program.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        program.stdin.close()
    deadline = time.monotonic() + END_SECONDS
    while select.select([program.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not os.read(program.stdout.fileno(), PIECE_BYTES):
            break
    try:
        return program.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise BenchError(
            f"ending the measured program: it was still there {END_SECONDS:.0f} s after its input had ended; "
            "give a command that ends by itself"
        ) from error


def _last_words(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    return (
        " / ".join(complaints.read().decode(errors="replace").strip().splitlines()[-4:]) or "it said nothing"
    )


def _name(command: Sequence[str]) -> str:
    words = list(command)
    if words[0] == "nsenter":
        words = words[words.index("--") + 1 :]
    return " ".join(words[:6])
