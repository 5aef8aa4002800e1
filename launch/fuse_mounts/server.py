"""Start a mount server: a process of its own that outlives the command, and tells when its mount is ready.

What the server does is in `session`, how it becomes a process in `forking`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from launch import mounts
from launch.errors import ServerFailed
from launch.forking import Forked, Report, prepare_to_serve
from launch.fuse_mounts.session import run_session
from launch.log_lines import TEXT, formatter
from launch.mount_request import MountRequest
from launch.mounts import MountRecord, new_id
from launch.root import state_directory


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
    request = request.in_any_directory()  # a server works in the root directory
    mount_id = new_id()
    log_path = state_directory(request.root, "log") / f"{mount_id}.log"
    if foreground:
        return _serve_here(request, mount_id, log_path, on_ready)

    def serve(report: Report) -> None:
        run_session(request, mount_id, log_path, lambda record: report(record.to_json()))

    server = Forked(
        serve,
        log_path,
        log_format=request.log_format,
        log_id=mount_id,
        bound=request.bound,
        bound_until_ready=True,
    )
    record = mounts.from_json(server.await_report(meanwhile))
    try:
        on_ready(record)
    except BaseException:
        server.end()  # nobody has been told of it
        raise
    return record


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
    prepare_to_serve()
    run_session(request, mount_id, log_path, report)
    if not ready:
        raise ServerFailed(f"{request.mountpoint} was unmounted before it was ready")
    return ready[0]
