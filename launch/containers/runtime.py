"""The OCI runtime (runc, crun) as a child: found, started in the foreground, signalled, its end understood.

The runtime is told everything in `config.json` and keeps its state in the container's own directory, so
that nothing of a container is anywhere else. What a specification says is `oci_spec`'s business.
"""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from chunk_store.named_file import named
from launch.containers.run_errors import (
    CommandNotExecutable,
    CommandNotFound,
    RunError,
    RuntimeFailed,
    RuntimeMissing,
)

# runc first: crun 1.8 refuses hosts with the hybrid cgroup layout.
RUNTIMES = ("runc", "crun")

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
WATCHED = frozenset({*FORWARDED, signal.SIGCHLD})

# asm-generic/siginfo.h: sent by the kernel itself, here the terminal driver.
SI_KERNEL = 0x80

# What runtimes log when a signal arrives after its container has ended.
TOO_LATE = ("process already finished", "no such process")

NOT_FOUND = r"executable file .*not found|exec\b.*: no such file"
NOT_EXECUTABLE = r"exec\b.*(permission denied|is a directory|exec format error)"


def find_runtime(wanted: str | None) -> Path:
    """The runtime's executable: *wanted* (a name or a path), or the first of `RUNTIMES` in PATH.

    Raises:
        RuntimeMissing: there is none; the message names the packages.
    """
    for name in (wanted,) if wanted else RUNTIMES:
        places = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(":")
        for place in places:
            candidate = Path(place, name).absolute()
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return candidate
    if wanted:
        raise RuntimeMissing(f"cannot run a container with {wanted}: no such executable; name runc or crun")
    raise RuntimeMissing("cannot run a container: no runc or crun in PATH; install the package runc or crun")


def run_container(runtime: Path, directory: Path, name: str, *, attach_input: bool) -> int:
    """Run the container whose bundle is *directory*; returns its exit code, 128 + n after signal n

    Signals of `FORWARDED` reach it meanwhile; afterwards they stay blocked, so that nothing interrupts the
    tidying up. Main thread only. The terminal is as before on return.

    Raises:
        CommandNotFound, CommandNotExecutable, RuntimeFailed: it was never started.
        OSError: there is no room for what the runtime may have to say.
    """
    log = directory / "runtime.log"
    # A block for its complaint: on a disk that has filled meanwhile its code would pass for the container's.
    with named(log):
        log.write_text("\n")
    arguments = [*_command(runtime, directory), "--log", str(log), "--log-format", "json", "run", "--bundle"]
    actions: list[tuple[int, int, str, int, int]] = []
    if not attach_input:
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    terminal = _TerminalState()
    # Blocked, not handled: a signal between a check and a wait would otherwise be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        child = os.posix_spawn(
            runtime,
            [*arguments, str(directory), name],
            os.environ,
            file_actions=actions,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
        )
    except OSError as error:
        raise RuntimeFailed(f"cannot start {runtime}: {error.strerror}") from error
    code = _wait(child)
    terminal.restore()
    if code != 0:
        said = last_error(log)
        if said is not None:
            raise start_failure(runtime.name, said)
    return code


def delete_container(runtime: Path, directory: Path, name: str) -> None:
    """Kill and forget a container whose owner is gone; one that is gone as well is fine."""
    import subprocess

    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [*_command(runtime, directory), "delete", "--force", name],
            capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False,
        )


def last_error(log: Path) -> str | None:
    """Why the runtime did not start the container, by its log; None when it did not say so.

    Other errors a runtime logs (a signal that came too late for its container) are not why it failed.
    """
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or entry.get("level") not in ("error", "fatal"):
            continue
        message = str(entry.get("msg"))
        if not any(harmless in message for harmless in TOO_LATE):
            return message
    return None


def start_failure(runtime: str, said: str) -> RunError:
    """What a runtime's complaint *said* means for the exit code."""
    shown = said.removeprefix(f"{runtime} run failed: ").strip()
    sentence = f"{runtime} could not start the container: {shown}"
    if re.search(NOT_FOUND, said, re.IGNORECASE):
        return CommandNotFound(sentence)
    if re.search(NOT_EXECUTABLE, said, re.IGNORECASE):
        return CommandNotExecutable(sentence)
    return RuntimeFailed(sentence)


def _command(runtime: Path, directory: Path) -> list[str]:
    return [str(runtime), "--root", str(directory / "state")]


def _wait(child: int) -> int:
    while True:
        arrived = signal.sigwaitinfo(WATCHED)
        if arrived.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif arrived.si_code != SI_KERNEL:
            # What the terminal sends goes to the whole foreground group: the runtime has it already.
            with suppress(ProcessLookupError):
                os.kill(child, arrived.si_signo)


class _TerminalState:
    """The settings of our terminal, to be put back should the runtime be killed while it is in raw mode."""

    def __init__(self) -> None:
        self._saved = None
        if os.isatty(0):
            import termios

            self._saved = termios.tcgetattr(0)

    def restore(self) -> None:
        if self._saved is not None:
            import termios

            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
