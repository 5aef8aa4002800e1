"""Which driver shows an image, and why: what was asked for, or what this machine was seen to do."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from chunk_store.boot import current_boot
from chunk_store.keeper_client import KEEPER
from erofs_fs.errors import ErofsMissing
from launch.whole_file import read_json_object, write_whole

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
    server, which only FUSE has for each mount; not with "erofs".

    If it is not known what the kernel does, it is taken to do all: `require_events` finds out, and refuses.

    Raises:
        ErofsError: "erofs" was asked for, and this machine cannot do it at all.
    """
    if asked == "fuse":
        return Choice(Driver.FUSE, "asked for")
    if metrics:
        assert asked == "auto", "the command line refuses the other"
        return Choice(Driver.FUSE, "metrics of a server were asked for")
    if os.geteuid() != 0:
        if asked == "erofs":
            from erofs_fs.probe import require_root

            require_root()
        return Choice(Driver.FUSE, "mounts of the kernel need root")
    seen = _seen(place)
    if seen is None or seen.missing is None:
        reason = "asked for" if asked == "erofs" else "the kernel does all that is relied on"
        return Choice(Driver.EROFS, reason)
    if asked == "auto":
        return Choice(Driver.FUSE, seen.missing)
    from erofs_fs.probe import probe

    probe(place)
    return Choice(Driver.FILLED, f"asked for; filled before it is mounted, because {seen.missing}")


def require_events(place: Path) -> None:
    """Return if windows in *place* can be filled while the kernel reads; asked of the kernel once under each
    boot and by each version of the probe. `choose_driver` knows the answer from then on.

    Raises:
        ErofsMissing: they cannot.
        OSError: the place cannot be written.
    """
    seen = _seen(place)
    if seen is None:
        from erofs_fs.probe import probe_events

        missing = None
        try:
            probe_events(place)
        except ErofsMissing as error:
            missing = str(error)
        seen = _Seen(missing)
        with suppress(OSError):
            # A torn one is none.
            write_whole(
                place / KEEPER / SEEN, json.dumps({**now(), "missing": missing}).encode(), durable=False
            )
    if seen.missing is not None:
        raise ErofsMissing(seen.missing)


class _Seen(NamedTuple):
    missing: str | None  # what the kernel does not do; None: it does all


def now() -> dict[str, object]:
    """What the answer of a probe holds for."""
    return {"boot": current_boot(), "kernel": os.uname().release, "probe": PROBE_VERSION}


def _seen(place: Path) -> _Seen | None:
    """What the last probe has found, if that still holds."""
    seen = read_json_object(place / KEEPER / SEEN)
    if seen is None or any(seen.get(key) != value for key, value in now().items()):
        return None
    missing = seen.get("missing")
    return _Seen(None if missing is None else str(missing))
