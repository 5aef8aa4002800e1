"""One directory per running container below ROOT/containers, and what happens to it when its owner dies.

A container belongs to the `nopull run` that made it. The owner holds a record lock on `owner.json` for
its whole life; the kernel drops the lock however the owner ends, so "is it stale?" needs no daemon and no
guess about pids. (A record lock and not flock(2): the mount server is forked from the owner and would
inherit the latter.)

    owner.json   who made it, locked while it lives     lower/   the image, mounted
    config.json  the runtime specification              upper/, work/   the writable layer
    state/       the runtime's own state                merged/  the container's root
    runtime.log  what the runtime had to say

| owner died                        | found later                 | repaired by the next `run` or `ps`      |
|-----------------------------------|-----------------------------|-----------------------------------------|
| before the directory got its name | `.new-…`, unlocked          | removed                                 |
| before the container was started  | no `state/NAME`             | removed                                 |
| while it ran                      | `state/NAME`, perhaps alive | runtime kills and deletes it; removed   |
| while it tidied up                | some of the directory       | the rest is removed; owner.json is last |
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chunk_store.named_file import named
from erofs_fs.pids import await_end, birth_of
from launch import mounts
from launch.containers.overlay import unmount
from launch.containers.run_errors import NameTaken, RunError
from launch.containers.runtime import delete_container
from launch.mountpoint import real_path
from launch.root import state_directory

log = logging.getLogger("nopull.containers")

NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NEW_PREFIX = ".new-"
PARTS = ("lower", "upper", "work", "merged", "state")

# Between its mkdir and its lock a new directory looks abandoned; nobody needs longer than this for the two.
SETTLING_SECONDS = 60.0
# A mount server that was told to end has this long for it, then it is killed.
END_SECONDS = 3.0


@dataclass(slots=True)
class ContainerDirectory:
    """A directory we own; closing `lock` (or dying) gives it up to whoever tidies up next."""

    path: Path
    name: str
    lock: int

    def remove(self) -> None:
        """Remove all of it; nothing may be mounted in it any more as seen from here."""
        _remove(self.path)
        os.close(self.lock)


def create(root: Path, name: str | None, runtime: Path) -> ContainerDirectory:
    """Make and lock the directory of a new container, called *name* or something unique.

    Raises:
        RunError: *name* cannot be a container's name.
        NameTaken: a container of that name is running.
        StateUnusable: the directory cannot be made.
    """
    if name is not None and not NAME_RULE.fullmatch(name):
        raise RunError(
            f"cannot name a container {name!r}: a name has up to 64 letters, digits and `_.-`,"
            " and begins with a letter or digit"
        )
    above = state_directory(root, "containers")
    # Not `secrets`, whose import costs more than making the container does.
    name = name or f"nopull-{os.urandom(6).hex()}"
    new = above / f"{NEW_PREFIX}{os.urandom(6).hex()}"
    new.mkdir(mode=0o700)
    lock = -1
    try:
        lock = os.open(new / "owner.json", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX)
        owner = {"pid": os.getpid(), "birth": birth_of(os.getpid()), "name": name, "runtime": str(runtime)}
        with named(new / "owner.json"):
            os.write(lock, json.dumps(owner).encode())
        for part in PARTS:
            (new / part).mkdir(mode=0o755 if part == "upper" else 0o700)
        new.rename(above / name)
    except OSError as error:
        _remove(new)
        if lock >= 0:
            os.close(lock)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            taken = f"cannot run a container called {name}: there is one already; take another --name"
            raise NameTaken(taken) from error
        raise
    return ContainerDirectory(above / name, name, lock)


def remove_stale(root: Path) -> int:
    """Remove the containers whose owners are gone; returns how many. Never waits for a living one."""
    removed = 0
    for directory in _directories(root / "containers"):
        lock = _claim(directory)
        if lock is None:
            continue
        try:
            _finish(root, directory)
            removed += 1
        except OSError as error:
            log.warning("could not tidy up the container in %s: %s", directory, error)
        finally:
            os.close(lock)
    return removed


def _directories(above: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from sorted(above.iterdir())


def _claim(directory: Path) -> int | None:
    """The locked owner file of a directory nobody owns, or None."""
    if directory.name.startswith(NEW_PREFIX) and not _has_settled(directory):
        return None  # who makes it may not have come to lock it
    try:
        lock = os.open(directory / "owner.json", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        if _has_settled(directory):
            with suppress(OSError):
                _remove(directory)
        return None
    try:
        # A record lock never conflicts with one of the same process, so our own containers must be told
        # by pid.
        ours = _owner(directory).get("pid") == os.getpid()
        if not ours:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _has_settled(directory: Path) -> bool:
    try:
        return time.time() - directory.stat().st_mtime > SETTLING_SECONDS
    except OSError:
        return False


def _finish(root: Path, directory: Path) -> None:
    owner = _owner(directory)
    name, runtime = owner.get("name"), owner.get("runtime")
    if isinstance(name, str) and isinstance(runtime, str) and (directory / "state" / name).exists():
        delete_container(Path(runtime), directory, name)
    _end_server(root, directory / "lower")
    _remove(directory)


def _end_server(root: Path, lower: Path) -> None:
    # By its process: the mount is in a namespace that we cannot reach, and goes with it.
    for record in mounts.records(root):
        if record.mountpoint != real_path(lower):
            continue
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if mounts.server_lives(record):
                with suppress(ProcessLookupError):
                    os.kill(record.server, signum)
                await_end(record.server, END_SECONDS)
        mounts.forget(root, record)


def _owner(directory: Path) -> dict[str, object]:
    try:
        found = json.loads((directory / "owner.json").read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _remove(directory: Path) -> None:
    import shutil

    for part in ("merged", "lower"):
        unmount(directory / part)
        # Never recursively: should something be mounted there after all, its files are not ours to delete.
        with suppress(FileNotFoundError):
            (directory / part).rmdir()
    for part in ("state", "work", "upper"):
        with suppress(FileNotFoundError):
            shutil.rmtree(directory / part)
    files = [entry for entry in directory.iterdir() if entry.name != "owner.json"]
    for file in [*files, directory / "owner.json"]:
        file.unlink(missing_ok=True)
    directory.rmdir()
