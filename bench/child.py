"""Child processes that cannot outlive us: started in a network namespace, stopped by their own id.

Not a supervisor: nothing is restarted. Serves everything in `bench` (and the tests) that needs a
server: the registry, containerd, the emulated link.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError, ProgramMissing

STOP_SECONDS = 5.0


def command_in(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """Return *argv* as a command that runs in the named network namespace (None: ours).

    `nsenter`, not `ip netns exec`: the latter remounts /sys and hides the control groups from runc.
    """
    if namespace is None:
        return list(argv)
    return ["nsenter", f"--net=/var/run/netns/{namespace}", "--", *argv]


def bound_command(argv: Sequence[str]) -> list[str]:
    """Return *argv* as a command that gets SIGTERM when the thread that starts it dies, even by SIGKILL."""
    return ["setpriv", "--pdeathsig", "TERM", *argv]


def start_child(
    argv: Sequence[str],
    *,
    namespace: str | None = None,
    stdout: Path,
    stderr: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that gets SIGTERM when the calling thread dies, even by SIGKILL.

    Output is appended to the given files (*stderr* None: to the same file). The child leads its own
    session, so a Ctrl-C at the terminal reaches us first and we stop it in order.

    Raises:
        ProgramMissing: the program is not installed.
    """
    if shutil.which(argv[0]) is None:
        raise ProgramMissing(f"starting {argv[0]}: no such program; ./dev setup installs it")
    with contextlib.ExitStack() as files:
        out = files.enter_context(stdout.open("ab"))
        err = subprocess.STDOUT if stderr is None else files.enter_context(stderr.open("ab"))
        return subprocess.Popen(
            bound_command(command_in(namespace, argv)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            env=environment,
        )


def stop_child(child: subprocess.Popen[bytes], *, seconds: float = STOP_SECONDS) -> None:
    """End one child: SIGTERM, and SIGKILL after *seconds*. It is reaped on return."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


def stop_session(child: subprocess.Popen[bytes], *, seconds: float = STOP_SECONDS) -> None:
    """As `stop_child`, for a program that waits for what it has started before it ends: all of it is told."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run_command(argv: Sequence[str], *, doing: str, timeout: float = 600.0) -> str:
    """Run a command to its end and return its standard output as text.

    Raises:
        ProgramMissing: the program is not installed.
        BenchError: it failed or took longer than *timeout* seconds; the message has its last words.
    """
    try:
        done = subprocess.run(
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise ProgramMissing(f"{doing}: no program {argv[0]}; ./dev setup installs it") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{doing}: {argv[0]} was still running after {timeout:.0f} s") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise BenchError(f"{doing}: {argv[0]} ended with {done.returncode}: {' / '.join(words)}")
    return done.stdout.decode(errors="replace")


def tail(path: Path, lines: int = 3) -> str:
    """Return the last lines of a log in one line, for an error message."""
    with contextlib.suppress(OSError):
        return " / ".join(path.read_text(errors="replace").strip().splitlines()[-lines:])
    return ""
