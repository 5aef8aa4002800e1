"""Start a mount server: a process of its own that outlives the command, and tells when its mount is ready.

A fork, not a new interpreter: starting one costs more than everything else a mount does. Therefore it must be
called before the process has threads. What the server does is in `session`.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from fuse_fs.errors import MountFailed
from launch import mounts
from launch.error_relay import describe, is_known, rebuild
from launch.errors import ServerFailed
from launch.log_lines import TEXT, formatter
from launch.mounts import MountRecord
from launch.root import state_directory
from launch.session import MountRequest, new_id, run_session

__all__ = ["MountRequest", "start_mount"]

_PR_SET_PDEATHSIG = 1
# malloc.h: M_ARENA_MAX, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (bytes).
_MALLOC_OPTIONS = {-8: 2, -1: 1 << 20, -3: 1 << 20}
LOG_TAIL = 300  # characters of a server's log in an error message


def start_mount(
    request: MountRequest,
    *,
    foreground: bool = False,
    on_ready: Callable[[MountRecord], None] = lambda _: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> MountRecord:
    """Mount what *request* says; return when the mount answers, with its record.

    The server is a child of the calling process, in a session of its own; *meanwhile* is called here while
    that starts. With *foreground* the calling process serves itself, in its main thread: *on_ready* is called
    when the mount answers, and the return is after the end of the mount.

    Raises:
        what the server raised before it was ready (see `session.run_session`), as the same type.
        ServerFailed: it ended without a word.
    """
    mount_id = new_id()
    log_path = state_directory(request.root, "log") / f"{mount_id}.log"
    if foreground:
        return _serve_here(request, mount_id, log_path, on_ready)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _be_server(request, mount_id, log_path, writing, parent)
    os.close(writing)
    try:
        meanwhile()
        with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
            words = pipe.read()
    except BaseException:
        # Interrupted: the server goes with us, whatever it is at.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    record = _understood(words, pid, log_path)
    on_ready(record)
    return record


def _understood(words: bytes, pid: int, log_path: Path) -> MountRecord:
    """The record the server reported; else its error, after it has ended."""
    said: dict[str, Any] = json.loads(words) if words else {}
    if "record" in said:
        return mounts.from_json(said["record"])
    _, status = os.waitpid(pid, 0)
    if "error" in said:
        error = rebuild(said["error"])
        if isinstance(error, MountFailed | ServerFailed):
            error.args = (f"{error}; the end of {log_path}: {_tail(log_path)}",)
        _drop_if_empty(log_path)
        raise error
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    raise ServerFailed(
        f"the mount server {how} before its mount was ready; the end of {log_path}: {_tail(log_path)}"
    )


def _serve_here(
    request: MountRequest, mount_id: str, log_path: Path, on_ready: Callable[[MountRecord], None]
) -> MountRecord:
    ready: list[MountRecord] = []

    def report(record: MountRecord) -> None:
        ready.append(record)
        on_ready(record)

    if request.log_format != TEXT:
        for output in logging.getLogger().handlers:
            output.setFormatter(formatter(request.log_format, mount_id))
    run_session(request, mount_id, log_path, report)
    if not ready:
        raise ServerFailed(f"{request.mountpoint} was unmounted before it was ready")
    return ready[0]


def _be_server(
    request: MountRequest, mount_id: str, log_path: Path, writing: int, parent: int
) -> NoReturn:
    """The rest of the child's life. Never returns: what the parent has on its stack is not ours to unwind."""
    said: list[str] = []

    def say(word: str, content: Any) -> None:
        said.append(word)
        with open(writing, "wb") as pipe:
            pipe.write(json.dumps({word: content}).encode())

    code = 1
    try:
        _settle(log_path, writing, formatter(request.log_format, mount_id))
        _bound_memory()
        if request.bound:
            _bind_to(parent)
        run_session(request, mount_id, log_path, lambda record: say("record", record.to_json()))
        _drop_if_empty(log_path)
        code = 0
    # The outermost boundary of this process: the parent is told, or the log.
    except BaseException as error:  # noqa: BLE001
        with suppress(BaseException):
            if said or not is_known(error):
                traceback.print_exc()
            if not said:
                say("error", describe(error))
    finally:
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def _settle(log_path: Path, writing: int, lines: logging.Formatter) -> None:
    """Become a process of its own: session, signals, descriptors, log."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
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
    logging.basicConfig(stream=sys.stderr)
    logging.getLogger().handlers[0].setFormatter(lines)


def _bound_memory() -> None:
    """Have glibc give freed memory back: else every thread that ever read keeps its own share of it.

    Measured after an image of 9 000 files and 100 MB was read whole: 44 MB resident instead of 68. Lower
    thresholds save 4 MB more and cost a tenth of the speed of cold reads.
    """
    import ctypes

    with suppress(AttributeError):  # another C library
        for option, value in _MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)


def _bind_to(parent: int) -> None:
    """Have SIGTERM sent to us when *parent* ends; end now if it has already."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        raise ServerFailed(f"process {parent} ended while its mount server started")


def _drop_if_empty(log_path: Path) -> None:
    with suppress(FileNotFoundError):
        if not log_path.stat().st_size:
            log_path.unlink()


def _tail(log_path: Path) -> str:
    try:
        return " ".join(log_path.read_text(errors="replace")[-LOG_TAIL:].split()) or "nothing"
    except FileNotFoundError:
        return "nothing"
