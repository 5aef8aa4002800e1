"""Start a process of our own that outlives the command, and hear from it when it is ready, or why it is not.

A fork, not a new interpreter: starting one costs more than everything else a mount does. Therefore it must be
called before the process has threads. What the process does is said by its caller.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from fuse_fs.errors import MountFailed
from launch.awaiting import await_words
from launch.error_relay import describe, is_known, rebuild
from launch.errors import ServerFailed
from launch.held_signals import ENDING
from launch.log_lines import drop_if_empty, formatter, log_to_stderr

log = logging.getLogger("nopull.server")

Report = Callable[[Mapping[str, Any]], None]

_PR_SET_PDEATHSIG = 1
# malloc.h: M_ARENA_MAX, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (bytes).
_MALLOC_OPTIONS = {-8: 2, -1: 1 << 20, -3: 1 << 20}
_SWITCH_SECONDS = 0.0005
_LOOK_SECONDS = 0.5
LOG_TAIL = 300  # characters of a server's log in an error message


class Forked:
    """A child in a session of its own that calls *work* with what it reports through, once, when it is ready.

    Parameters:
        log_path: where its output goes; removed again if there was none.
        log_format, log_id: of its lines, see `log_lines.formatter`.
        bound: it goes when this process does, however that ends.
        bound_until_ready: the same, until it has reported.
    """

    def __init__(
        self,
        work: Callable[[Report], None],
        log_path: Path,
        *,
        log_format: str,
        log_id: str,
        bound: bool = False,
        bound_until_ready: bool = False,
    ) -> None:
        self._log_path = log_path
        reading, writing = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            lines = formatter(log_format, log_id)
            tied, tied_until_ready = parent if bound else None, parent if bound_until_ready else None
            _be_child(work, log_path, writing, lines, tied, tied_until_ready)
        os.close(writing)
        self._reading = reading

    def await_report(
        self, meanwhile: Callable[[], None] = lambda: None, *, look: Callable[[], object] = lambda: None
    ) -> Mapping[str, Any]:
        """What it reported; *meanwhile* is called first, *look* every 2 s until then.

        Raises:
            what *work* raised before it was ready, as the same type.
            ServerFailed: it ended without a word.
            what *look* raises; the child is ended.
        """
        try:
            meanwhile()
            await_words(self._reading, look)
            with open(self._reading, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
                words = pipe.read()
        except BaseException:
            self.end()  # interrupted: the server goes with us, whatever it is at
            raise
        said: dict[str, Any] = json.loads(words) if words else {}
        if "report" in said:
            report: Mapping[str, Any] = said["report"]
            return report
        _, status = os.waitpid(self.pid, 0)
        if "error" in said:
            error = rebuild(said["error"])
            if isinstance(error, MountFailed | ServerFailed):
                error.args = (f"{error}; the end of {self._log_path}: {_tail(self._log_path)}",)
            drop_if_empty(self._log_path)
            raise error
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise ServerFailed(
            f"the mount server {how} before its mount was ready; the end of {self._log_path}:"
            f" {_tail(self._log_path)}"
        )

    def end(self) -> None:
        """Have it end, and wait for that. To be called once, and not after `await_report` has raised."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
            os.kill(self.pid, signal.SIGCONT)  # it may be stopped
        os.waitpid(self.pid, 0)


def prepare_to_serve() -> None:
    """Have this process answer readers soon although it fetches, and glibc give freed memory back: else every
    thread that ever read keeps its own share of it.

    By default a thread waits up to 5 ms for the interpreter. While an image was filled at full speed and two
    other programs kept both processors busy, a read of what was here took 0.34 ms, one in ten 7.5 ms; now
    0.29 and 6.1, and the fill as long as before. Without the other programs there was no difference.
    Memory, after an image of 9 000 files and 100 MB was read whole: 44 MB resident instead of 68. Lower
    thresholds save 4 MB more and cost a tenth of the speed of cold reads.
    """
    import ctypes

    sys.setswitchinterval(_SWITCH_SECONDS)
    with suppress(AttributeError):  # another C library
        for option, value in _MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)


def give_back_memory() -> None:
    """Have glibc give back what is free now: reading an image's tables takes more than keeping them."""
    import ctypes

    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _be_child(
    work: Callable[[Report], None],
    log_path: Path,
    writing: int,
    lines: logging.Formatter,
    parent: int | None,
    parent_until_ready: int | None,
) -> NoReturn:
    """The rest of the child's life. Never returns: what the parent has on its stack is not ours to unwind."""
    said: list[str] = []

    def say(word: str, content: Any) -> None:
        said.append(word)
        with open(writing, "wb") as pipe:
            pipe.write(json.dumps({word: content}).encode())

    code = 1
    try:
        _settle(log_path, writing, lines)
        prepare_to_serve()
        if parent is not None:
            _bind_to(parent)
        if parent_until_ready is not None:
            watch = threading.Thread(target=_end_if_unheard, args=(parent_until_ready, said), daemon=True)
            watch.start()
        work(lambda report: say("report", report))
        drop_if_empty(log_path)
        code = 0
    # The outermost boundary of this process: the parent is told, or the log.
    except BaseException as error:
        with suppress(BaseException):
            if said or not is_known(error):
                log.critical("the server failed", exc_info=error)
            if not said:
                say("error", describe(error))
    finally:
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def _settle(log_path: Path, writing: int, lines: logging.Formatter) -> None:
    """Become a process of its own: session, signals, descriptors, log."""
    os.setsid()
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    # Objects of the parent must not be collected here: they would close descriptors that are ours by then.
    gc.freeze()
    null = os.open(os.devnull, os.O_RDWR)
    out = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.closerange(3, writing)
    os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    # Anew: what the parent had there may write somewhere else (a test runner's capture does).
    sys.stdout, sys.stderr = (
        open(descriptor, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for descriptor in (1, 2)
    )
    # Dropped, not closed: what they write to has been closed above.
    logging.getLogger().handlers.clear()
    log_to_stderr(lines)


def _bind_to(parent: int) -> None:
    """Have SIGTERM sent to us when *parent* ends; end now if it has already."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        raise ServerFailed(f"process {parent} ended while its mount server started")


def _end_if_unheard(parent: int, said: list[str]) -> None:
    """Have SIGTERM sent to us if *parent* ends before something was *said*.

    Not as `_bind_to` does: only the main thread could undo that, which serves by then.
    """
    while not said:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(_LOOK_SECONDS)


def _tail(log_path: Path) -> str:
    try:
        return " ".join(log_path.read_text(errors="replace")[-LOG_TAIL:].split()) or "nothing"
    except FileNotFoundError:
        return "nothing"
