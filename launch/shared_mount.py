"""Have the shared server of a state root mount an image; start that server if there is none."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from launch import mounts
from launch.control import ask
from launch.error_relay import rebuild
from launch.errors import ServerFailed, ServerSilent
from launch.forking import Forked, Report
from launch.mount_request import MountRequest
from launch.mounts import MountRecord, new_id
from launch.root import state_directory

_SECONDS = 300.0  # for opening an image, over whatever network
_AGAIN_SECONDS = 0.05


def mount_shared(request: MountRequest) -> MountRecord:
    """Mount what *request* says; return when the mount answers, with its record.

    Before the process has threads.

    Raises:
        what the server raised (see `session.prepare`), as the same type.
        ServerFailed: there is none, and none could be started.
    """
    from launch.shared_server import SOCKET, mount_namespace

    request = request.in_any_directory()
    path = state_directory(request.root, "run") / SOCKET
    name = new_id()
    question = {"ask": "mount", "id": name, "request": request.to_json(), "namespace": mount_namespace()}
    deadline = time.monotonic() + _SECONDS
    try:
        while True:
            try:
                answer = ask(path, question, seconds=_SECONDS)
            except ServerSilent as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"the server of shared mounts does not answer: {error}") from error
                _start(request.root, request.log_format)
                continue
            if "record" in answer:
                return mounts.from_json(answer["record"])
            if "error" in answer:
                raise rebuild(answer["error"])
            time.sleep(_AGAIN_SECONDS)  # it was about to end
    except (KeyboardInterrupt, SystemExit):
        with suppress(ServerSilent):
            ask(path, {"ask": "give up", "id": name})
        raise


def _start(root: Path, log_format: str) -> None:
    """Return when a server listens, which may be another one than the one started here."""
    log_path = state_directory(root, "log") / f"shared-{new_id()}.log"

    def serve(report: Report) -> None:
        from launch.shared_server import SharedServer

        SharedServer(root, log_path).run(lambda: report({}))

    Forked(serve, log_path, log_format=log_format, log_id="shared").await_report()
    time.sleep(_AGAIN_SECONDS)  # for the other one that has the lock and does not listen yet, or no more
