"""See to it that a store has a keeper: how one is started, and when another must not be.

A keeper that was killed is started anew by the filler, which holds what it had; a second one beside that
would leave readers to nobody. So as long as a filler lives, its keeper is waited for. Who is stopped or stuck
and has nobody to see to it is killed here, and what it held goes to the next.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from chunk_store.doorway import DIRECTORY_MODE, Doorway
from chunk_store.keeper_client import ASK_SECONDS, KEEPER, LOCK, SOCKET, ask_keeper, ask_within
from chunk_store.lock_file import lock_file
from chunk_store.place import stores
from chunk_store.window_file import WindowDirectory
from erofs_fs import handover
from erofs_fs.errors import KeeperFailed
from erofs_fs.holds import Hold, living
from erofs_fs.keeper_program import KeeperProgram, start_keeper
from erofs_fs.localised_file import devices_of
from erofs_fs.pids import is_stopped
from launch.root import state_directory
from rafs.errors import FormatInvalid

FILLER_LOCK = "filler.lock"  # in the keeper's directory: held by whoever is, or becomes, the filler
_PATIENCE_SECONDS = 5.0
_FILLER_SECONDS = 15.0  # in which a filler that lives has replaced a keeper that is silent
_LOOK_SECONDS = 0.02
_AGAIN_SECONDS = 0.1  # between keepers that find another one, which is starting, or ending, or out of reach

# Without site-packages, of which the keeper needs nothing: half the memory, a third of the time to start.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from erofs_fs.keeper_life import run; run()"


def keeper_program(place: Path, root: Path) -> KeeperProgram:
    """What becomes the keeper of the store *place* of the state root *root*."""
    packages = Path(__file__).parents[2]
    options = ["-S", "-E", "-P", "-c", _PROGRAM]
    command = [sys.executable, *options, str(packages), str(place), *filler_command(place, root)]
    return KeeperProgram(command, state_directory(root, "log") / "keeper.log")


def filler_command(place: Path, root: Path) -> list[str]:
    """What becomes a filler of that store."""
    return [sys.executable, "-P", "-m", "launch.kernel_mounts.filler_life", str(place), str(root)]


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
    began = time.monotonic()
    with ExitStack() as undo:
        start = _Start(place, root, given or {}, undo)
        while True:
            asked, silent_since = time.monotonic(), None
            try:
                status = _status_within(place, needed=True)
            except TimeoutError:
                status, silent_since = None, asked
            if status is not None:
                return status
            waited = time.monotonic() - began
            lock = None if is_filler else take_filler_lock(place)
            if is_filler or lock is not None:
                if start.as_filler(lock, silent_since):
                    continue
                if waited >= _PATIENCE_SECONDS:
                    raise KeeperFailed(silence(place))
                time.sleep(_AGAIN_SECONDS)
            elif waited >= _PATIENCE_SECONDS and start.in_place_of_filler(silent_since):
                continue
            elif waited >= _FILLER_SECONDS:
                raise KeeperFailed(silence(place))
            else:
                time.sleep(_LOOK_SECONDS)


class _Start:
    """Starts keepers with what is *given*, and with what is taken from who is silent: closed by *undo*."""

    def __init__(self, place: Path, root: Path, given: Mapping[str, int], undo: ExitStack) -> None:
        self._place = place
        self._program = keeper_program(place, root)
        self._held = dict(given)
        self._undo = undo

    def as_filler(self, lock: int | None, silent_since: float | None) -> bool:
        """Start one, and let the filler's *lock* go; False: there is one already. It is replaced if it was
        asked something at *silent_since* and has not heard it yet.
        """
        try:
            if start_keeper(self._program, self._held):
                return True
            if silent_since is None or not self._take(LOCK, silent_since):
                return False
            os.close(self._held.pop(handover.LOCK))
            start_keeper(self._program, self._held)
            return True
        finally:
            if lock is not None:
                os.close(lock)

    def in_place_of_filler(self, silent_since: float | None) -> bool:
        """As `as_filler`, with what the filler holds, if that is stopped; False: it is not."""
        # Here and below, since hardly any start needs it.
        from erofs_fs.taken_over import owner_of

        if not is_stopped(owner_of(self._place / KEEPER / FILLER_LOCK)) or not self._take(FILLER_LOCK):
            return False
        self.as_filler(self._held.pop(handover.LOCK), silent_since)
        return True

    def _take(self, lock: str, silent_since: float | None = None) -> bool:
        from erofs_fs.taken_over import take_from

        taken = take_from(self._place, self._place / KEEPER / lock, silent_since=silent_since)
        self._held.update(taken)
        for name in set(taken) - {handover.LOCK}:
            self._undo.callback(os.close, taken[name])
        return bool(taken)


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
        if lacking(place):
            before = Doorway(place).number
            if ensure_keeper(place, root)["number"] != before:
                taken.append(place)
    return taken


def lacking(place: Path) -> list[Hold]:
    """The mounts over the store *place* that need a keeper, because not all they show is local."""
    directory = WindowDirectory(place)
    return [hold for hold in living(place) if _lacks(hold, directory)]


def silence(place: Path) -> str:
    """What can be said of the store's keeper, which is silent, or not started by a filler that lives."""
    from erofs_fs.taken_over import owner_of

    role, pid = "keeper", owner_of(place / KEEPER / LOCK)
    what = f"does not answer at {place / KEEPER / SOCKET}"
    if not pid and (filler := owner_of(place / KEEPER / FILLER_LOCK)):
        role, pid, what = "filler", filler, "has no keeper"
    if not pid:
        return f"a process is the keeper of the store {place} and {what}; end it"
    way = f"end it (`kill -9 {pid}`), then call `nopull ps`"
    if is_stopped(pid):
        what, way = "is stopped", f"continue it (`kill -CONT {pid}`), or {way}"
    return f"process {pid} is the {role} of the store {place} and {what}; {way}"


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
    """What the keeper of the store *place* says of itself; None if there is none, or it does not answer.

    *needed*: it is about to be, and does not end for a second although nothing is mounted.
    """
    with suppress(TimeoutError):
        return _status_within(place, needed=needed)
    return None


def living_status(place: Path) -> dict[str, Any] | None:
    """As `keeper_status`, but that a silent keeper is told from none.

    Raises:
        KeeperFailed: there is one and it does not answer.
    """
    try:
        return _status_within(place)
    except TimeoutError as error:
        raise KeeperFailed(silence(place)) from error


def _status_within(place: Path, *, needed: bool = False) -> dict[str, Any] | None:
    answered = ask_within(place, {"ask": "status", "needed": needed}, ASK_SECONDS)
    return None if answered is None else answered[0]


def take_filler_lock(place: Path) -> int | None:
    """A descriptor that makes us the filler as long as it is open; None if there is one."""
    return lock_file(place / KEEPER / FILLER_LOCK)
