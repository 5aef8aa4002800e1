"""The process of a keeper: from its arguments to its end, `python -m erofs_fs.keeper_life ROOT FILLER…`.

Sees to it that there is one keeper per store, that nothing pushes it out of memory or out of the processor,
and that what it holds is held elsewhere, too. Started by `launch.kernel_mounts.keeper_start` or by a service
manager.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from chunk_store.doorway import DIRECTORY_MODE
from chunk_store.keeper_client import KEEPER, LOCK
from chunk_store.lock_file import lock_file
from erofs_fs import handover, syscalls
from erofs_fs.cgroups import leave_bounds
from erofs_fs.descriptors import require_descriptors, take_descriptors
from erofs_fs.errors import KeeperFailed
from erofs_fs.gate import READER_SECONDS
from erofs_fs.journal import Journal
from erofs_fs.keeper import Keeper
from erofs_fs.keeper_words import ALREADY, READY
from erofs_fs.mount import is_localised
from erofs_fs.mount_table import OVERLAY_TYPE, OWN_TABLE, mount_table, overlay_lowers
from erofs_fs.namespace import leave_starters_namespace

SECONDS_VARIABLE: Final = "NOPULL_READER_SECONDS"
OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
_LAST_TO_BE_KILLED: Final = "-999"


def main(arguments: list[str]) -> int:
    """Be the keeper of the store ROOT until told to end; the exit code."""
    root, command = Path(arguments[0]), arguments[1:]
    given = handover.received(os.environ)
    _close_others(given)
    os.chdir("/")
    refuse_lazy_home()  # while its mounts are still in sight
    require_descriptors()
    if handover.GROUP not in given:
        leave_starters_namespace(root)
    lock = given.pop(handover.LOCK, None)
    if lock is None:
        lock = take_lock(root)
        if lock is None:
            return ALREADY
    stay_alive()
    take_descriptors()
    given[handover.LOCK] = lock
    if handover.JOURNAL in given:
        # Before anything else is opened. A keeper that was restarted had fewer things open, and has given
        # accesses the numbers that ours would have.
        waiting = Journal(given[handover.JOURNAL]).waiting()
        given = handover.reserve([one.number for one in waiting], given)
    lock = given.pop(handover.LOCK)
    keeper = Keeper(
        root,
        command,
        given,
        reader_seconds=float(os.environ.get(SECONDS_VARIABLE) or 0) or READER_SECONDS,  # a verb has seen it
        stays=handover.NOTIFY_SOCKET in os.environ,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.end())
    signal.set_wakeup_fd(keeper.waker, warn_on_full_buffer=False)
    handover.notify(os.environ, f"READY=1\nMAINPID={os.getpid()}", keeper.stored)
    _report_ready()
    become = keeper.run()
    if become is not None:
        handover.exec_with(become, {**keeper.left(), handover.LOCK: lock}, os.environ)
    return 0


def take_lock(root: Path) -> int | None:
    """A descriptor that makes us the keeper of the store for as long as it is open; None if there is one."""
    (root / KEEPER).mkdir(DIRECTORY_MODE, exist_ok=True)
    return lock_file(root / KEEPER / LOCK)


def refuse_lazy_home(table: Path = OWN_TABLE) -> None:
    """Return if nothing this process runs on can be absent.

    Raises:
        KeeperFailed: its program or its modules lie on a mount of a localised image, or on an overlay of
        one: to read them it would wait for itself.
    """
    entries = mount_table(table)
    ours = {entry.device for entry in entries if is_localised(entry)}
    lowers = {entry.device: overlay_lowers(entry) for entry in entries if entry.fstype == OVERLAY_TYPE}

    def lies_on_ours(path: str) -> bool:
        with suppress(OSError):  # what an overlay was made of may not be seen from here
            if _device(path) in ours:
                return True
            # A file of an overlay has not the overlay's device, its directory has.
            overlays = {_device(path), _device(os.path.dirname(os.path.realpath(path)))}  # noqa: PTH120
            return any(lies_on_ours(lower) for one in overlays for lower in lowers.get(one, ()))
        return False

    for name in (sys.executable, os.__file__, __file__):
        if lies_on_ours(name):
            raise KeeperFailed(f"a keeper cannot run from {name}, which lies on a mount it may have to fill")


def _device(path: str) -> str:
    device = os.stat(path).st_dev  # noqa: PTH116 - metadata is always there
    return f"{os.major(device)}:{os.minor(device)}"


def stay_alive() -> None:
    """Stay in memory, be the last to be killed for it, and the first to run, as far as that is allowed."""
    if handover.NOTIFY_SOCKET not in os.environ:  # else it bounds us as it was told
        with suppress(OSError, ValueError):
            leave_bounds()
    with suppress(OSError):
        OOM_SCORE.write_text(_LAST_TO_BE_KILLED, encoding="ascii")
    with suppress(OSError):
        syscalls.lock_memory()
    with suppress(OSError):
        # Each answer makes the kernel wake all who wait, each of whom looks whether it was his: 2 000 readers
        # took a minute to be told of 8 s that were over, and take a moment if their keeper need not queue up
        # behind them. What it starts is not as urgent.
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _close_others(given: Mapping[str, int]) -> None:
    """Let go of what was inherited by mistake: a group of events nobody reads would hold readers for ever."""
    wanted = sorted({2, *given.values()})
    for low, high in zip(wanted, [*wanted[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def _report_ready() -> None:
    """Say so to whoever started us, if it listens at our output."""
    with suppress(OSError):
        os.write(1, READY)
    # It may be a pipe that somebody waits for to end.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)


def run() -> NoReturn:
    """`main`, as a program."""
    try:
        code = main(sys.argv[1:])
    # The last words, whatever it was.
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
