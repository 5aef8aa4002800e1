"""A keeper whose life is somebody else's: started by a service manager, replaced or ended by people.

Without that, `keeper_start` sees to keepers, and nobody needs to know of them.
"""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from chunk_store import ChunkStore
from chunk_store.keeper_client import ASK_SECONDS, KEEPER, LOCK, ask_keeper, ask_within
from chunk_store.place import stores
from erofs_fs import handover
from erofs_fs.descriptors import require_descriptors
from erofs_fs.errors import ErofsForbidden, KeeperFailed
from erofs_fs.keeper_life import take_lock
from erofs_fs.taken_over import take_from
from launch.errors import MountBusy
from launch.kernel_mounts.keeper_start import (
    end_keeper,
    keeper_program,
    keeper_status,
    lacking,
    living_status,
    silence,
)
from rafs.counted import counted

_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_PLAIN = re.compile(r"[\w./:@+=,-]+", re.ASCII)

# Not Type=exec: what waits for the service waits until mounts can be made. KillMode: a filler holds what
# readers wait on, and outlives the keeper for that. StartLimitIntervalSec: as long as systemd keeps the
# group of a service that it does not start again, readers wait.
_UNIT = """\
[Unit]
Description=nopull keeper: lets readers of lazily loaded images wait for their data
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command} keeper run --root {root}
ExecReload={command} keeper restart --root {root}
Restart=always
RestartSec=0
KillMode=process
FileDescriptorStoreMax=16
OOMScoreAdjust=-999
LimitNOFILE=1048576
LimitMEMLOCK=infinity

[Install]
WantedBy=multi-user.target
"""


def become_keeper(root: Path) -> NoReturn:
    """Become the keeper of the store *root*, in place of one that runs.

    Raises:
        ErofsForbidden: this is not root.
        KeeperFailed: the one that runs does not let go, this process may have too few descriptors, or the
        root cannot be written.
        StoreError, OSError.
    """
    if os.geteuid() != 0:  # before anything is made or taken over
        raise ErofsForbidden("a keeper needs root: it watches files and mounts; run it as root")
    require_descriptors()
    _require_writable(root)
    ChunkStore(root).close()  # a keeper opens none: it must have been opened since the machine started
    given = handover.received(os.environ)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (lock := take_lock(root)) is None:
        if time.monotonic() >= deadline:
            raise KeeperFailed(f"{root} has a keeper that does not let go: {silence(root)}")
        # What a living keeper holds is newer than what a service manager kept.
        given.update(_taken_over(root))
        time.sleep(_LOOK_SECONDS)
    given[handover.LOCK] = lock
    handover.exec_with(keeper_program(root, root).command, given, os.environ)
    raise AssertionError("exec returned")


def restart_keepers(root: Path) -> list[Path]:
    """Have the keepers of all stores of *root* start anew as what is installed now; those stores.

    Raises:
        KeeperFailed: one does not come back, refuses, or could not write to its root.
    """
    restarted = []
    for place, before in keepers(root):
        _require_writable(place)
        answered = ask_keeper(place, {"ask": "restart", "command": keeper_program(place, root).command})
        if answered is not None and "refused" in answered[0]:
            raise KeeperFailed(f"the keeper of {place} goes on: {answered[0]['refused']}")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (now := keeper_status(place)) is None or now["number"] == before["number"]:
            if time.monotonic() >= deadline:
                raise KeeperFailed(f"the keeper of {place} does not come back; see {root}/log")
            time.sleep(_LOOK_SECONDS)
        restarted.append(place)
    return restarted


def end_keepers(root: Path, *, force: bool) -> list[Path]:
    """End the keepers of all stores of *root*; those stores.

    Raises:
        MountBusy: mounts need one, and not *force*; none was ended.
        KeeperFailed: one does not end.
    """
    found = [place for place, _ in keepers(root)]
    lack = [hold.id for place in found for hold in lacking(place)]
    if lack and not force:
        raise MountBusy(
            f"ending keepers: of {counted(len(lack), 'mount')} ({', '.join(lack)}) not all is local, and what"
            " is not would be an error to read; `nopull pull` their images first, or use --force"
        )
    for place in found:
        if not end_keeper(place):
            raise KeeperFailed(f"the keeper of {place} does not end; see {root}/log")
    return found


def keepers(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The stores of *root* that have a keeper, and what each says of itself.

    Raises:
        PermissionError: they are another user's.
        KeeperFailed: one does not answer.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        list((root / KEEPER).iterdir())  # else a keeper that is not ours to ask is taken for none
    found = ((place, living_status(place)) for place in stores(root))
    return [(place, status) for place, status in found if status is not None]


def unit_text(root: Path) -> str:
    """A systemd unit for the keeper of the store *root*."""
    program = Path(sys.argv[0]).absolute()
    command = [str(program)] if os.access(program, os.X_OK) else [sys.executable, str(program)]
    return _UNIT.format(command=" ".join(map(_quoted, command)), root=_quoted(str(root)))


def _require_writable(place: Path) -> None:
    """Return if a keeper of *place* could make its socket. One that cannot ends, for which no keeper that
    runs is to be given up.

    Raises:
        KeeperFailed: it cannot.
    """
    directory = place / KEEPER
    if directory.exists() and not os.access(directory, os.W_OK):
        raise KeeperFailed(
            f"a keeper of {place} has to write to {directory}, which cannot be written; is its file system"
            " mounted read-only?"
        )


def _quoted(word: str) -> str:
    """As systemd.service(5) has a word of a command line, in which `%` and `$` stand for something."""
    if _PLAIN.fullmatch(word):
        return word
    inner = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + inner.replace("%", "%%").replace("$", "$$") + '"'


def _taken_over(place: Path) -> dict[str, int]:
    """What a keeper that runs has held until now, by name; empty if there is none. From one that is silent it
    is taken.
    """
    asked = time.monotonic()
    try:
        answered = ask_within(place, {"ask": "give"}, ASK_SECONDS)
    except TimeoutError:
        taken = take_from(place, place / KEEPER / LOCK, silent_since=asked)
        if taken:
            os.close(taken.pop(handover.LOCK))
        return taken
    if answered is None or "names" not in answered[0]:
        return {}
    return dict(zip(answered[0]["names"], answered[1], strict=True))
