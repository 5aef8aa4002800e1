"""What a mount server does, from the name of an image to the end of its mount.

`run_session` is for a process with one mount, in its main thread; `server` makes the process, and tells the
outside what is reported here. `shared_server` has many mounts, each prepared as `prepare` does it. The
network is used from the first moment, while the rest is loaded and the store opened beside it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from erofs_fs.pids import birth_of
from launch import mounts
from launch.claim import Claim
from launch.control import ControlServer
from launch.errors import MountBusy, MountImpossible, NotMounted
from launch.images.opening import open_early
from launch.later import Later
from launch.mount_request import MountRequest
from launch.mountpoint import detach, mount_at
from launch.mounts import SERVER, MountRecord
from launch.root import state_directory
from launch.store_options import store_root

if TYPE_CHECKING:
    from chunk_store import Attachment, ChunkStore, Limits
    from fuse_fs.tree import ImageTree
    from launch.images.lazy_image import LazyImage
    from launch.metrics import MetricsServer

log = logging.getLogger("nopull.server")

FUSE_CONFIGURATION = Path("/etc/fuse.conf")


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image that is open and only has to be mounted. Belongs to the stack that it was prepared with."""

    tree: ImageTree
    attachment: Attachment
    record: MountRecord
    asked: dict[int, int]  # see `fuse_fs.session.Session`
    allow_other: bool

    @property
    def fsname(self) -> str:
        """What the mount is of, for the mount table."""
        return f"nopull:{self.record.pinned}"

    def announce(self, root: Path) -> MountRecord | None:
        """The record of the mount, written when the mount answers; None if it was taken away at once."""
        self.record.mountpoint.stat()
        entry = mount_at(self.record.mountpoint)
        if entry is None:
            return None
        final = replace(self.record, device=entry.device)
        mounts.write_record(root, final)
        return final


def prepare(
    request: MountRequest,
    mount_id: str,
    log_path: Path,
    undo: ExitStack,
    claim: Claim,
    open_store: Callable[[Path, Limits], ChunkStore],
    known: Callable[[LazyImage], LazyImage] = lambda image: image,
) -> Prepared:
    """Open what *request* names; what has to be undone at the end of the mount goes to *undo*, as *claim* to
    its mountpoint has.

    *known* may give the same image back with tables that are in memory already.

    Raises:
        what can keep an image from being opened (`images.open_image`) or mounted (`fuse_fs.mount.require`),
        and what *open_store* raises.
    """
    opening = [open_early(request.image, request.root)]
    metrics = _listen(request, undo)
    undo.callback(_close_opened, opening)
    # Here, while the network works: loading these takes longer than a round trip.
    from chunk_store import Limits
    from fuse_fs.mount import require
    from fuse_fs.tree import ImageTree
    from launch.fuse_mounts.answers import Answers
    from launch.images.hot_list import hot_ranges

    require()
    limits = Limits(cache_bytes=request.image.cache_size)
    limits = replace(limits, read_seconds=min(limits.read_seconds, request.image.options.timeout))
    place = store_root(request.root, request.image.reference, isolate=request.isolate)
    store = open_store(place, limits)
    image = known(opening[0].result())
    undo.callback(image.close)
    opening.clear()  # whatever *known* has replaced is kept by nobody
    for warning in image.warnings:
        log.warning("%s", warning)
    attachment = store.attach(
        image.blobs, image.blob_source, hot=hot_ranges(image.bootstrap), background=request.image.background
    )
    undo.callback(attachment.close)
    address = None if metrics is None else metrics.address
    record = _record(request, mount_id, claim.mountpoint, image, log_path, address)
    undo.callback(mounts.forget, request.root, record)
    asked: dict[int, int] = {}
    if metrics is None:
        tree = ImageTree(image.bootstrap, attachment)
    else:
        from launch.metrics import TimedBytes

        metrics.publish(record, attachment, asked)
        tree = ImageTree(image.bootstrap, TimedBytes(attachment, metrics.observe))
    answers = Answers(record, attachment, tree, asked)
    control = ControlServer(record.control, answers)
    undo.callback(control.close)
    return Prepared(tree, attachment, record, asked, may_allow_other())


def run_session(
    request: MountRequest, mount_id: str, log_path: Path, report: Callable[[MountRecord], None]
) -> None:
    """Mount what *request* says, *report* the mount when it answers, and return when it is gone.

    Whatever happens, nothing is left: the mount, the record and the socket are gone on return.

    Raises:
        what `mountpoint.prepare`, `prepare` and `fuse_fs.mount.serve` raise, and what `chunk_store` raises
        when its directory cannot be used.
    """
    with ExitStack() as undo:

        def open_store(place: Path, limits: Limits) -> ChunkStore:
            from chunk_store import ChunkStore
            from launch.kernel_mounts.silent_keeper import see_to_keeper

            see_to_keeper(place, request.root)
            return undo.enter_context(ChunkStore(place, limits=limits))

        claim = undo.enter_context(Claim(request.mountpoint))
        prepared = prepare(request, mount_id, log_path, undo, claim, open_store)
        from fuse_fs.mount import serve

        def announce() -> None:
            try:
                final = prepared.announce(request.root)
                if final is not None:
                    report(final)
            except BaseException:
                # A mount that nobody can be told of (its record does not fit on the disk, perhaps) ends.
                with suppress(NotMounted, MountBusy, MountImpossible):
                    detach(claim.mountpoint, lazy=True)
                raise
            prepared.attachment.make_files()

        announcing: list[Later[None]] = []

        def on_ready() -> None:
            claim.release()
            announcing.append(Later(announce))

        serve(
            prepared.tree,
            claim.mountpoint,
            on_ready=on_ready,
            allow_other=prepared.allow_other,
            fsname=prepared.fsname,
            on_stop=prepared.attachment.close,
            asked=prepared.asked,
        )
        for announced in announcing:
            announced.result()


def may_allow_other() -> bool:
    """Whether this user's mounts may be seen by others: root's always, else as /etc/fuse.conf says."""
    if os.geteuid() == 0:
        return True
    with suppress(OSError):
        lines = FUSE_CONFIGURATION.read_text(errors="replace").splitlines()
        return "user_allow_other" in (line.strip() for line in lines)
    return False


def _listen(request: MountRequest, undo: ExitStack) -> MetricsServer | None:
    if request.metrics_address is None:
        return None
    from launch.metrics import MetricsServer

    metrics = MetricsServer(request.metrics_address)
    undo.callback(metrics.close)
    return metrics


def _close_opened(opening: list[Later[LazyImage]]) -> None:
    # Still going on: only when interrupted, and then the process ends. Failed: being raised already.
    for one in opening:
        if one.ended:
            with suppress(BaseException):
                one.result().close()


def _record(
    request: MountRequest,
    mount_id: str,
    mountpoint: Path,
    image: LazyImage,
    log_path: Path,
    metrics: str | None,
) -> MountRecord:
    pid = os.getpid()
    birth = birth_of(pid)
    assert birth is not None, "we are alive"
    return MountRecord(
        id=mount_id,
        mountpoint=mountpoint,
        reference=image.reference.familiar().partition("@")[0],
        digest=image.digest,
        driver="fuse",
        driver_reason=request.driver_reason,
        pids={SERVER: pid},
        births={SERVER: birth},
        started=time.time(),
        device="",
        control=state_directory(request.root, "run") / f"{mount_id}.sock",
        log=log_path,
        config=image.config_path,
        image=image.directory,
        background=request.image.background,
        metrics=metrics,
        warnings=image.warnings,
        shared=request.shared,
    )
