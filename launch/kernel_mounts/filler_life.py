"""The process of a filler: forked by the first `nopull mount` of a store, or started by the store's keeper.

    python -m launch.kernel_mounts.filler_life STORE ROOT

Lives as long as something of some kernel mount is missing. Answers at `STORE/keeper/filler`: what `nopull
mount` asks for, and what `ps` and `explain` want to know.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from chunk_store.doorway import DIRECTORY_MODE
from chunk_store.keeper_client import KEEPER
from erofs_fs import handover
from erofs_fs.cgroups import leave_bounds
from erofs_fs.errors import KeeperFailed, PostTaken
from erofs_fs.filler_link import FillerLink
from erofs_fs.namespace import leave_starters_namespace
from launch.control import ControlServer
from launch.driver_choice import require_events
from launch.error_relay import describe, is_known
from launch.forking import Report, prepare_to_serve
from launch.images.image_request import ImageRequest, from_json
from launch.images.opening import open_early
from launch.kernel_mounts.keeper_start import ensure_keeper, keeper_program, take_filler_lock
from launch.later import Later
from launch.log_lines import TEXT, formatter, log_to_stderr
from launch.root import state_directory

if TYPE_CHECKING:
    from launch.images.lazy_image import LazyImage
    from launch.kernel_mounts.filler import Filler, Made

log = logging.getLogger("nopull.filler")

CONTROL = "filler"  # socket in the keeper's directory
LOG_NAME = "filler"
_LINK_SECONDS = 20.0  # in which keepers that end before they are reached are followed by the next


def control_path(place: Path) -> Path:
    """Where the filler of the store *place* answers."""
    return place / KEEPER / CONTROL


def be_filler(
    place: Path,
    root: Path,
    first: tuple[ImageRequest, str] | None = None,
    report: Report = lambda _: None,
    given: Mapping[str, int] | None = None,
) -> None:
    """Be the filler of the store *place* of the state root *root*; return when it is not needed any more.

    *first*: a mount to begin with, and its id; *report* is called with what was made. *given*: descriptors of
    the keeper that started this process, for its successor; they are closed when there is one to serve.

    Raises:
        PostTaken: another process is the filler. Nothing was done.
        ErofsMissing: this kernel cannot be filled while it reads.
        KeeperFailed: there is no keeper.
        with *first* also what keeps that from being made (`Filler.make_mount`).
    """
    with ExitStack() as undo:
        for directory in (place, place / KEEPER):
            directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        leave_starters_namespace(place)
        if given is None:  # else the keeper has: as a service, or by leaving what bounds it
            with suppress(OSError, ValueError):
                leave_bounds()
        lock = take_filler_lock(place)
        if lock is None:
            raise PostTaken(f"another process is the filler of {place}")
        undo.callback(os.close, lock)
        # All at the same time: the keeper, the kernel and the network answer while Python loads.
        opening = None if first is None else open_early(first[0], root)
        keeping = Later(lambda: ensure_keeper(place, root, is_filler=True, given=given))
        proving = Later(lambda: require_events(place))
        from chunk_store import ChunkStore
        from launch.kernel_mounts.filler import Filler

        store = undo.enter_context(ChunkStore(place))
        filler = Filler(store, root)
        undo.callback(filler.close)
        failed: list[BaseException] = []

        def make_first(request: ImageRequest, mount_id: str, opening: Later[LazyImage]) -> None:
            try:
                report(made_json(filler.make_mount(request, mount_id, opening.result, proving.result)))
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                failed.append(error)
                filler.quit()

        if first is not None and opening is not None:
            request, mount_id = first
            Later(lambda: make_first(request, mount_id, opening))
        proving.result()
        keeping.result()
        link = linked(place, root, given)
        undo.callback(link.close)
        for descriptor in (given or {}).values():
            os.close(descriptor)
        control = ControlServer(control_path(place), _Answers(filler))
        undo.callback(control.close)
        filler.serve(link)
        if failed:
            raise failed[0]


def linked(place: Path, root: Path, given: Mapping[str, int] | None) -> FillerLink:
    """The post of the store *place*; *root* and *given* as in `be_filler`.

    Raises:
        PostTaken, KeeperFailed: see there.
    """
    give_up = time.monotonic() + _LINK_SECONDS
    while True:
        try:
            return FillerLink(place, keeper_program(place, root), {})
        except KeeperFailed:
            # One that was found may have had nothing to do, and have ended before we came.
            if time.monotonic() >= give_up:
                raise
            ensure_keeper(place, root, is_filler=True, given=given)


def made_json(made: Made) -> dict[str, Any]:
    """For whoever asked for the mount."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in asdict(made).items()
    }


class _Answers:
    """A `control.Answer`: makes mounts, and tells how far they are filled. Thread-safe."""

    def __init__(self, filler: Filler) -> None:
        self._filler = filler

    def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        asked, mount_id = question.get("ask"), str(question.get("mount"))
        if asked == "mount":
            return self._mount(question)
        if asked == "trace":
            reads = self._filler.reads(mount_id)
            return {} if reads is None else reads.to_json()
        return {"progress": self._filler.facts(mount_id)}

    def _mount(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            request = from_json(question["request"])
            return {"made": made_json(self._filler.make_mount(request, str(question["id"])))}
        # Raised again where it was asked.
        except Exception as error:
            if not is_known(error):
                log.exception("making a mount failed")
            return {"error": describe(error)}


def main(arguments: list[str]) -> int:
    """What a keeper starts; the exit code."""
    place, root = (Path(argument) for argument in arguments)
    given = handover.received(os.environ)
    log_path = state_directory(root, "log") / f"{LOG_NAME}.log"
    out = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for target in (1, 2):
        os.dup2(out, target)
    log_to_stderr(formatter(TEXT, LOG_NAME))
    prepare_to_serve()
    with suppress(PostTaken):
        be_filler(place, root, given=given)
    return 0


def run() -> NoReturn:
    """`main`, as a program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = main(sys.argv[1:])
    # The outermost boundary of this process.
    except BaseException:
        log.critical("the filler failed", exc_info=True)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # threads that still fetch are of no use to anybody


if __name__ == "__main__":
    run()
