"""Mount through the kernel an image that is still absent: the command's side of it.

A filler makes the mount, the keeper has it, and here it is put where it belongs, in the mount namespace of
whoever asks. The filler of the store is asked if there is one; else the command forks one, which outlives it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunk_store.keeper_client import ask_keeper
from erofs_fs.errors import KeeperFailed, PostTaken
from erofs_fs.mount import attach
from launch.control import ask
from launch.error_relay import rebuild
from launch.errors import FillerEnds, MountImpossible, ServerSilent
from launch.forking import Forked
from launch.held_signals import HeldSignals
from launch.images.image_request import absolute
from launch.kernel_mounts.filler_life import LOG_NAME, be_filler, control_path
from launch.kernel_mounts.keeper_start import ensure_keeper
from launch.kernel_mounts.kernel_record import record_kernel_mount, withdraw
from launch.mount_request import MountRequest
from launch.mounts import MountRecord, new_id
from launch.root import state_directory
from launch.store_options import store_root

_TRY_SECONDS = 20.0  # fillers that end just then are followed by others for this long
_PAUSE_SECONDS = 0.05
_MARGIN_SECONDS = 60.0  # beyond the registry's deadline: checking, localising, mounting


class KernelMount:
    """A mount that is being made. Begin it before the process has threads; `put` it in its place once."""

    def __init__(self, request: MountRequest, reason: str) -> None:
        self.root = request.root
        self._log_format = request.log_format
        self._reason = reason
        self._id = new_id()
        self._place = store_root(request.root, request.image.reference, isolate=request.isolate)
        self._image = absolute(request.image)
        self._log_path = state_directory(request.root, "log") / f"{LOG_NAME}.log"
        self._put = False
        self._forked = None if control_path(self._place).exists() else self._fork()

    def cancel(self) -> None:
        """Whatever has become of it, it is not needed; what was `put` stays."""
        if self._put:
            return
        if self._forked is not None:
            with suppress(ProcessLookupError):
                os.kill(self._forked.pid, signal.SIGTERM)  # the keeper starts another, if one is needed
        answered = ask_keeper(self._place, {"ask": "take", "mount": self._id})
        for descriptor in [] if answered is None else answered[1]:
            os.close(descriptor)

    def put(self, mountpoint: Path, held: HeldSignals, *, viewer: int | None = None) -> MountRecord:
        """Wait until it is made, mount it on the directory *mountpoint*, and return its record, written.

        Signals are *held* as soon as there is something to take away again, which is the caller's from the
        return on; after an error there is nothing. *viewer*: the process whose mount namespace *mountpoint*
        is in, if that is not everybody's.

        Raises:
            what keeps the image from being opened or mounted, see `filler.Filler.make_mount`.
            MountImpossible: the place was taken meanwhile.
        """
        made = self._await_made()
        answered = ask_keeper(self._place, {"ask": "take", "mount": self._id})
        if answered is None or not answered[1]:
            raise KeeperFailed(f"mounting on {mountpoint}: the keeper was killed meanwhile; try again")
        (descriptor,) = answered[1]
        self._put = True
        held.hold()
        try:
            attach(descriptor, mountpoint)
        finally:
            os.close(descriptor)
        try:
            return record_kernel_mount(
                self.root,
                self._id,
                mountpoint,
                store=self._place,
                reference=str(made["reference"]),
                digest=str(made["digest"]),
                reason=self._reason,
                lazy=True,
                background=self._image.background,
                config=None if made["config"] is None else Path(made["config"]),
                image=None if made["image"] is None else Path(made["image"]),
                viewer=viewer,
                warnings=made["warnings"],
            )
        except BaseException:
            withdraw(self.root, mountpoint)
            raise

    def _fork(self) -> Forked:
        place, root, first = self._place, self.root, (self._image, self._id)
        return Forked(
            lambda report: be_filler(place, root, first, report),
            self._log_path,
            log_format=self._log_format,
            log_id=LOG_NAME,
        )

    def _await_made(self) -> Mapping[str, Any]:
        give_up = time.monotonic() + _TRY_SECONDS
        while True:
            try:
                if self._forked is not None:
                    return self._forked.await_report(look=self._look)
                return self._asked()
            except (ServerSilent, FillerEnds, PostTaken) as error:
                if time.monotonic() >= give_up:
                    raise MountImpossible(f"no filler of {self._place} takes the mount: {error}") from error
                time.sleep(_PAUSE_SECONDS)
                # One that has the post answers; where nobody does, ours can have it.
                self._forked = self._fork() if isinstance(error, ServerSilent) else None

    def _look(self) -> None:
        """Have keeper and filler replaced if they are stopped, since we wait for them.

        Raises:
            KeeperFailed: one is, and cannot be replaced.
        """
        ensure_keeper(self._place, self.root)
        ask_keeper(self._place, {"ask": "filler"})

    def _asked(self) -> Mapping[str, Any]:
        question = {"ask": "mount", "id": self._id, "request": self._image.to_json(secrets=True)}
        seconds = self._image.options.timeout + _MARGIN_SECONDS
        answer = ask(control_path(self._place), question, seconds=seconds, look=self._look)
        if "error" in answer:
            raise rebuild(answer["error"])
        made: Mapping[str, Any] = answer["made"]
        return made
