"""Processes of a kernel mount that stop themselves at a named step of a fill: what `test_kill_points` kills.

`python -m tests.kills.armed CONTROL ARGUMENTS…` is `nopull ARGUMENTS…` whose keeper and filler, and all that
follow those, look at each step whether the file CONTROL names it. Who finds its name there takes the file
away, leaves its process id in `CONTROL.reached`, and stops. Standard library only before it is known to be a
filler's: keepers have nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# Step: module, class (empty: none), function; whether before or after it, or in the middle of what it writes.
KEEPER_STEPS = {
    "an access is read": ("erofs_fs.journal", "Journal", "note", "before"),
    "an access is noted": ("erofs_fs.journal", "Journal", "note", "after"),
    "bytes are told to be there": ("erofs_fs.fanotify", "", "allow", "before"),
    "an access is answered": ("erofs_fs.fanotify", "", "allow", "after"),
    "an access is forgotten": ("erofs_fs.journal", "Journal", "clear", "after"),
}
FILLER_STEPS = {
    "a window is needed": ("launch.kernel_mounts.needs", "Needs", "need", "before"),
    "bytes are fetched": ("chunk_store.window_sink", "WindowSink", "feed", "before"),
    "bytes are verified": ("chunk_store.window_file", "LockedWindow", "write", "before"),
    "bytes are half written": ("chunk_store.window_file", "LockedWindow", "write", "half"),
    "bytes are written": ("chunk_store.window_file", "LockedWindow", "write", "after"),
    "a window is whole": ("chunk_store.window_file", "LockedWindow", "seal", "before"),
    "a window is sealed": ("erofs_fs.filler_link", "FillerLink", "have", "before"),
    "a window is told of": ("erofs_fs.filler_link", "FillerLink", "have", "after"),
}
_KEEPER = (
    "import sys; sys.path.append(sys.argv.pop(1)); from tests.kills.armed import arm_keeper; "
    "arm_keeper(sys.argv.pop(1)); from erofs_fs.keeper_life import run; run()"
)
_FILLER = (
    "import sys; from tests.kills.armed import arm_filler; arm_filler(sys.argv.pop(1)); "
    "from launch.kernel_mounts.filler_life import run; run()"
)


def arm_keeper(control: str) -> None:
    """Have this process, a keeper, stop at its steps."""
    for name, step in KEEPER_STEPS.items():
        _arm(control, name, *step)


def arm_filler(control: str) -> None:
    """Have this process, a filler or what becomes one, stop at its steps, and what it starts at its own."""
    import launch.kernel_mounts.filler_life
    import launch.kernel_mounts.keeper_start

    for name, step in FILLER_STEPS.items():
        _arm(control, name, *step)
    program, packages = launch.kernel_mounts.keeper_start.keeper_program, str(Path(__file__).parents[2])

    def filler_command(place: Path, root: Path) -> list[str]:
        return ["/usr/bin/env", f"PYTHONPATH={packages}", sys.executable, "-P", "-c", _FILLER, control,
                str(place), str(root)]  # fmt: skip

    def keeper_program(place: Path, root: Path) -> Any:
        made = program(place, root)
        at = made.command.index("-c")
        command = [*made.command[: at + 1], _KEEPER, packages, control, *made.command[at + 3 :]]
        return made._replace(command=command)

    launch.kernel_mounts.keeper_start.filler_command = filler_command
    for user in (launch.kernel_mounts.keeper_start, launch.kernel_mounts.filler_life):
        setattr(user, "keeper_program", keeper_program)  # noqa: B010 - it is an import of one of them


def _arm(control: str, step: str, module: str, owner: str, name: str, when: str) -> None:
    holder = import_module(module)
    if owner:
        holder = getattr(holder, owner)
    original: Callable[..., Any] = getattr(holder, name)

    def armed(*arguments: Any) -> Any:
        if when == "half" and _is_named(control, step):
            locked, offset, pieces = arguments
            whole = b"".join(pieces)
            original(locked, offset, [whole[: len(whole) // 2]])
            _stop_if_named(control, step)
        if when == "before":
            _stop_if_named(control, step)
        found = original(*arguments)
        if when == "after":
            _stop_if_named(control, step)
        return found

    setattr(holder, name, armed)


def _is_named(control: str, step: str) -> bool:
    try:
        with open(control, encoding="utf-8") as file:  # noqa: PTH123 - little is imported here
            return file.read() == step
    except FileNotFoundError:
        return False


def _stop_if_named(control: str, step: str) -> None:
    if not _is_named(control, step):
        return
    try:
        os.unlink(control)  # noqa: PTH108
    except FileNotFoundError:
        return  # another thread stops already
    with open(f"{control}.reached.new", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    os.rename(f"{control}.reached.new", f"{control}.reached")  # noqa: PTH104
    os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    arm_filler(sys.argv.pop(1))
    import nopull

    sys.exit(nopull.main(sys.argv[1:]))
