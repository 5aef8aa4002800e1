"""Have the shared server of a state root mount an image; start that server if there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from launch import mounts
from launch.control import ask
from launch.error_relay import rebuild
from launch.errors import ServerFailed, ServerSilent
from launch.forking import Forked, Report
from launch.held_signals import HeldSignals
from launch.mount_request import MountRequest
from launch.mounts import MountRecord, new_id
from launch.root import state_directory

_SECONDS = 300.0  # for opening an image, over whatever network
_AGAIN_SECONDS = 0.05


def mount_shared(request: MountRequest, on_ready: Callable[[MountRecord], None]) -> None:
    """Mount what *request* says; *on_ready* is called with its record when the mount answers.

    Signals that end processes take it away until *on_ready* has returned, as errors do. Main thread only, and
    before the process has others.

    Raises:
        what the server raised (see `session.prepare`), as the same type.
        ServerFailed: there is none, and none could be started.
    """
    from launch.fuse_mounts.shared_server import SOCKET

    request = request.in_any_directory()
    path = state_directory(request.root, "run") / SOCKET
    name = new_id()

    def give_up() -> None:
        with suppress(ServerSilent):
            ask(path, {"ask": "give up", "id": name})

    with HeldSignals() as held:
        held.hold(_interrupt)
        try:
            on_ready(_mounted(request, path, name))
            held.release(give_up)
        except BaseException:
            # The server goes on whatever becomes of us. What ends us does so after this.
            give_up()
            raise


def _mounted(request: MountRequest, path: Path, name: str) -> MountRecord:
    """What the server at socket *path* has mounted by that *name*, whichever server it takes."""
    from launch.fuse_mounts.shared_server import mount_namespace

    question = {"ask": "mount", "id": name, "request": request.to_json(), "namespace": mount_namespace()}
    deadline = time.monotonic() + _SECONDS
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


def _interrupt() -> None:
    """The signal itself has its effect when it is released: waiting must end before that."""
    raise KeyboardInterrupt


def _start(root: Path, log_format: str) -> None:
    """Return when a server listens, which may be another one than the one started here."""
    log_path = state_directory(root, "log") / f"shared-{new_id()}.log"

    def serve(report: Report) -> None:
        from launch.fuse_mounts.shared_server import SharedServer

        SharedServer(root, log_path).run(lambda: report({}))

    Forked(serve, log_path, log_format=log_format, log_id="shared").await_report()
    time.sleep(_AGAIN_SECONDS)  # for the other one that has the lock and does not listen yet, or no more
