"""kill -9 of a server at every step of a fill: whoever comes next finds right bytes or none, and goes on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from erofs_fs.pids import await_end
from fuse_fs.errors import FuseError
from launch import mounts
from launch.errors import LaunchError
from tests.support.command import able
from tests.system.fault_scene import HELD, PATIENCE, Scene, scene

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

# What changes the store, or decides who may. Counted only where `chunk_store` calls it.
STEPS = ((os, "open"), (os, "pwritev"), (os, "write"), (os, "ftruncate"), (os, "fsync"), (os, "unlink"),
         (os, "fork"), (fcntl, "flock"))  # fmt: skip


@contextmanager
def deadly(step: int, *, half: bool = False) -> Iterator[None]:
    """Servers that are started meanwhile are killed before their *step*-th step; with *half*, when half of
    what it writes is written.
    """
    us, taken = os.getpid(), 0

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal taken
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if os.getpid() != us and caller.startswith("chunk_store") and _changes(name, arguments):
                taken += 1
                if taken == step:
                    if half and name == "pwritev":
                        whole = b"".join(arguments[1])
                        original(arguments[0], [whole[: len(whole) // 2]], arguments[2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in STEPS:
            patch.setattr(module, name, counted(name, getattr(module, name)))
        yield


def _changes(name: str, arguments: tuple[Any, ...]) -> bool:
    return name != "open" or bool(arguments[1] & (os.O_WRONLY | os.O_RDWR))


def read_all(made: Scene, where: str) -> bool:
    """Whether every file could be read there, in another process."""
    files = [made.place(where) / name for name in made.files]
    done = subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def fill_and_die(made: Scene, step: int, *, half: bool = False) -> bool:
    """Mount, read everything, unmount; whether the server was killed at *step* on the way."""
    with deadly(step, half=half):
        try:
            record = made.mount()
        except (LaunchError, FuseError):
            return True
    read_all(made, "one")
    if mounts.server_lives(record):
        subprocess.run(["umount", "--lazy", made.place("one")], check=False)
        assert await_end(record.server, PATIENCE)
    # Whether it ended by itself is told by what it clears away then.
    return mounts.record_path(made.store, record.id).exists()


@pytest.mark.parametrize("half", [False, True])
def test_a_server_killed_at_any_step_leaves_what_the_next_one_completes(tmp_path: Path, half: bool) -> None:
    with scene(able(tmp_path)) as made:
        made.unmount()
        made.look("one", HELD)
        step = deaths = 0
        while True:
            step += 1
            made.empty()
            died = fill_and_die(made, step, half=half)
            if not died:
                break
            deaths += 1
            made.assert_right()
            made.unmount()
        # One window alone takes more steps than that.
        assert deaths >= 20


def test_of_two_servers_on_one_store_each_outlives_the_other_at_any_step(tmp_path: Path) -> None:
    with scene(able(tmp_path)) as made:
        made.mount("other")
        made.unmount()
        made.look("one", "other", HELD)
        for step in range(1, 60, 3):
            made.drop_pages("other")
            made.empty()
            with deadly(step):
                try:
                    made.mount()
                except (LaunchError, FuseError):
                    continue
            files = [made.place(where) / name for name in made.files for where in ("one", "other")]
            reading = [
                subprocess.Popen(["cat", one], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for one in files
            ]
            codes = [one.wait(PATIENCE) for one in reading]
            # The other one is not disturbed by a death in the middle of what both need.
            assert codes[1::2] == [0] * len(made.files)
            made.assert_right("other", "one")
            made.unmount()
