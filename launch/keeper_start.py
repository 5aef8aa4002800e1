"""See to it that a store has a keeper: how one is started, and when another must not be.

A keeper that was killed is started anew by the filler, which holds what it had; a second one beside that
would leave readers to nobody. So as long as a filler lives, its keeper is waited for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chunk_store.doorway import DIRECTORY_MODE
from chunk_store.keeper_client import KEEPER, SOCKET, ask_keeper
from chunk_store.lock_file import lock_file
from chunk_store.place import stores
from chunk_store.window_file import WindowDirectory
from erofs_fs.errors import KeeperFailed
from erofs_fs.holds import Hold, living
from erofs_fs.keeper_program import KeeperProgram, start_keeper
from erofs_fs.localised_file import devices_of
from launch.root import state_directory
from rafs.errors import FormatInvalid

FILLER_LOCK = "filler.lock"  # in the keeper's directory: held by whoever is, or becomes, the filler
_PATIENCE_SECONDS = 5.0
_LOOK_SECONDS = 0.02
_AGAIN_SECONDS = 0.1  # between keepers that find another one, which is starting, or ending, or out of reach

# Without site-packages, of which the keeper needs nothing: half the memory, a third of the time to start.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from erofs_fs.keeper_life import run; run()"


def keeper_program(place: Path, root: Path) -> KeeperProgram:
    """What becomes the keeper of the store *place* of the state root *root*."""
    packages = Path(__file__).parent.parent
    options = ["-S", "-E", "-P", "-c", _PROGRAM]
    command = [sys.executable, *options, str(packages), str(place), *filler_command(place, root)]
    return KeeperProgram(command, state_directory(root, "log") / "keeper.log")


def filler_command(place: Path, root: Path) -> list[str]:
    """What becomes a filler of that store."""
    return [sys.executable, "-P", "-m", "launch.filler_life", str(place), str(root)]


def ensure_keeper(
    place: Path, root: Path, *, is_filler: bool = False, given: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The status of the keeper of the store *place*, which has been opened; it is started if there is none.

    *is_filler*: this process holds the lock of `take_filler_lock`. *given*: what the keeper that started it
    has left with it, for the next one.

    Raises:
        KeeperFailed: it does not come up, or does not answer.
        OSError: its directory cannot be made.
    """
    (place / KEEPER).mkdir(DIRECTORY_MODE, exist_ok=True)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        status = keeper_status(place, needed=True)
        if status is not None:
            return status
        lock = None if is_filler else take_filler_lock(place)
        if is_filler or lock is not None:
            try:
                if start_keeper(keeper_program(place, root), given or {}):
                    continue
            finally:
                if lock is not None:
                    os.close(lock)
            if time.monotonic() >= deadline:
                raise KeeperFailed(_silence(place))
            time.sleep(_AGAIN_SECONDS)
        elif time.monotonic() >= deadline:
            raise KeeperFailed(
                f"the filler of the store {place} lives and has no keeper; stop it (see {root}/log)"
            )
        else:
            time.sleep(_LOOK_SECONDS)


def end_keeper(place: Path) -> bool:
    """End keeper and filler of the store *place*; what is absent is an error then. False: they do not end."""
    answered = ask_keeper(place, {"ask": "end"})
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while answered is not None and time.monotonic() < deadline:
        lock = take_filler_lock(place)
        if lock is not None:
            os.close(lock)
            if keeper_status(place) is None:
                return True
        time.sleep(_LOOK_SECONDS)
    return answered is None


def take_up(root: Path) -> list[Path]:
    """See to it that kernel mounts that live have a keeper, in all stores of *root*; the stores that got one.

    After all our processes were killed, absent data is an error until this; the mounts stay as they are.

    Raises:
        KeeperFailed, StoreUnusable.
    """
    taken = []
    for place in stores(root):
        if lacking(place) and keeper_status(place) is None:
            ensure_keeper(place, root)
            taken.append(place)
    return taken


def lacking(place: Path) -> list[Hold]:
    """The mounts over the store *place* that need a keeper, because not all they show is local."""
    directory = WindowDirectory(place)
    return [hold for hold in living(place) if _lacks(hold, directory)]


def _silence(place: Path) -> str:
    """What can be said of a keeper that there is and that does not answer."""
    # Here, since no start needs them: a keeper is a process of its own.
    from erofs_fs.keeper_life import LOCK
    from erofs_fs.lock_owners import lock_owners

    lock = place / KEEPER / LOCK
    status = lock.stat()
    holder = lock_owners(status.st_dev, {status.st_ino}).get(status.st_ino)
    who, way = ("a process", "") if holder is None else (f"process {holder}", f" (`kill {holder}`)")
    where = lock.parent / SOCKET
    return f"{who} is the keeper of the store {place} and does not answer at {where}; end it{way}"


def _lacks(hold: Hold, directory: WindowDirectory) -> bool:
    """Whether the mount asks for what is absent, and something is; also if that cannot be told."""
    if hold.request is None:
        return False
    try:
        devices = devices_of(hold.image)
    except (OSError, FormatInvalid):
        return True
    return any(directory.size(device.id) != device.length for device in devices)


def keeper_status(place: Path, *, needed: bool = False) -> dict[str, Any] | None:
    """What the keeper of the store *place* says of itself; None if there is none. *needed*: it is about to
    be, and does not end for a second although nothing is mounted.
    """
    answered = ask_keeper(place, {"ask": "status", "needed": needed})
    return None if answered is None else answered[0]


def take_filler_lock(place: Path) -> int | None:
    """A descriptor that makes us the filler as long as it is open; None if there is one."""
    return lock_file(place / KEEPER / FILLER_LOCK)
