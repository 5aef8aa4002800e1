"""Which driver shows an image, and why: what was asked for, or what this machine was seen to do."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from chunk_store.boot import current_boot
from chunk_store.doorway import DIRECTORY_MODE, KEEPER
from erofs_fs.errors import ErofsError, ErofsMissing
from launch.errors import MountImpossible
from launch.whole_file import read_json_object, write_whole

log = logging.getLogger("nopull.driver")

PROBE_VERSION = 1  # raised when `erofs_fs.probe` asks for more
SEEN = "probe.json"  # in the keeper's directory: what the last probe has found under this boot


class Driver(Enum):
    """How an image is shown."""

    FUSE = "fuse"
    EROFS = "erofs"  # by the kernel, filled while it is read
    FILLED = "erofs-filled"  # by the kernel, after all of it has been fetched


class Choice(NamedTuple):
    """A driver, and the reason in a few words."""

    driver: Driver
    reason: str


def choose_driver(asked: str, place: Path, *, metrics: bool) -> Choice:
    """What shows images of the store *place* when *asked* is "auto", "fuse" or "erofs".

    "auto" takes the kernel where it does all that is relied on, else FUSE. "erofs" takes the kernel in any
    case; if it cannot be filled while it is read, it is filled before. *metrics*: somebody wants to watch a
    server, which only FUSE has for each mount.

    Raises:
        ErofsError: "erofs" was asked for, and this machine cannot do it at all.
        MountImpossible: "erofs" was asked for, and metrics.
        OSError: the place of the store cannot be written.
    """
    if asked == "fuse":
        return Choice(Driver.FUSE, "asked for")
    if metrics:
        if asked == "erofs":
            raise MountImpossible("--metrics-address is for the driver fuse: others have no server per mount")
        return Choice(Driver.FUSE, "metrics of a server were asked for")
    if os.geteuid() != 0:
        if asked == "erofs":
            from erofs_fs.probe import require_root

            require_root()
        return Choice(Driver.FUSE, "mounts of the kernel need root")
    try:
        missing = _what_is_missing(place)
    except (ErofsError, OSError) as error:
        if asked == "erofs":
            raise
        return Choice(Driver.FUSE, f"the kernel's mounts could not be tried: {error}")
    if missing is None:
        reason = "asked for" if asked == "erofs" else "the kernel does all that is relied on"
        return Choice(Driver.EROFS, reason)
    if asked == "auto":
        return Choice(Driver.FUSE, missing)
    from erofs_fs.probe import probe

    probe(place)
    return Choice(Driver.FILLED, f"asked for; filled before it is mounted, because {missing}")


def now() -> dict[str, object]:
    """What the answer of a probe holds for."""
    return {"boot": current_boot(), "kernel": os.uname().release, "probe": PROBE_VERSION}


def _what_is_missing(place: Path) -> str | None:
    """Why windows in *place* cannot be filled while the kernel reads; None if they can.

    Asked of the kernel once under each boot and each of our versions.
    """
    path = place / KEEPER / SEEN
    seen = read_json_object(path) or {}
    if all(seen.get(key) == value for key, value in now().items()):
        missing = seen.get("missing")
        return None if missing is None else str(missing)
    for directory in (place, place / KEEPER):
        directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
    from erofs_fs.probe import probe_events

    missing = None
    try:
        probe_events(place)
    except ErofsMissing as error:
        missing = str(error)
    with suppress(OSError):
        write_whole(path, json.dumps({**now(), "missing": missing}).encode())
    return missing
