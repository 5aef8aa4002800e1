"""The place a mount goes to: whether it can be used, clearing a dead mount off it, taking a mount away.

Asks the kernel's mount table rather than the directory wherever it can: looking at a mount whose server is
slow waits, and at one whose server is dead fails.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
from contextlib import suppress
from pathlib import Path

from erofs_fs import syscalls
from erofs_fs.mount import is_localised
from erofs_fs.mount_table import MountEntry, mount_table
from erofs_fs.pids import await_end
from fuse_fs.errors import MountpointInvalid
from fuse_fs.mount_options import FUSE_TYPE
from launch.errors import MountBusy, MountImpossible, MountpointForbidden, NotMounted

MOUNT_TABLE = "/proc/{}/mountinfo"

_DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
_ANSWER_SECONDS = 2.0  # for what a living server has in memory
_STACKED = 16  # dead mounts on one place; each failed attempt to repair could have left one


def mounts_seen_by(pid: int | None) -> list[MountEntry]:
    """All mounts that process *pid* (None: this one) sees, in the order in which they were made.

    None at all if the process is gone, or is not ours to look at.
    """
    try:
        return mount_table(Path(MOUNT_TABLE.format("self" if pid is None else pid)))
    except OSError:
        if pid is None:
            raise
        return []


def mount_at(mountpoint: Path) -> MountEntry | None:
    """What is mounted on exactly *mountpoint* (absolute, without links); the topmost if there are several."""
    return next((entry for entry in reversed(mount_table()) if entry.mountpoint == mountpoint), None)


def where_shown(device: str) -> str | None:
    """Where the file system *device* ("major:minor") is mounted, in words; None: nowhere that we may look."""
    looked_at: set[str] = set()
    for pid in [os.getpid(), *(int(path.name) for path in Path("/proc").glob("[0-9]*"))]:
        with suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115 - no path, a name
            if namespace in looked_at:
                continue
            there = [entry.mountpoint for entry in mounts_seen_by(pid) if entry.device == device]
            if there:
                ours = not looked_at
                return f"on {there[-1]}" + ("" if ours else f" in the mount namespace of process {pid}")
            looked_at.add(namespace)
    return None


def real_path(path: Path) -> Path:
    """*path* absolute and without symbolic links, also where a dead mount lies on it."""
    return Path(os.path.realpath(path))


def prepare(path: Path) -> Path:
    """Make sure that an image can be mounted on *path*; return it absolute and without links.

    A mount of ours whose server has died is taken away first.

    Raises:
        MountpointInvalid: missing, not a directory, not empty, or not writable for this user.
        MountBusy: something living is mounted there.
        MountpointForbidden: it may not be looked at.
    """
    mountpoint = real_path(path)
    for _ in range(_STACKED):
        entry = mount_at(mountpoint)
        if entry is None or not is_dead(mountpoint):
            break
        if entry.fstype != FUSE_TYPE:
            raise MountBusy(
                f"cannot mount on {path}: a dead mount of another program lies there; unmount it first"
            )
        detach(mountpoint, lazy=True)
    if entry is not None:
        what = "an image" if is_localised(entry) else entry.source
        raise MountBusy(f"cannot mount on {path}: {what} is mounted there ({entry.fstype}); unmount it first")
    try:
        with os.scandir(mountpoint) as names:
            first = next(names, None)
    except FileNotFoundError as error:
        raise MountpointInvalid(f"cannot mount on {path}: no such directory; make it with mkdir") from error
    except NotADirectoryError as error:
        raise MountpointInvalid(f"cannot mount on {path}: it is not a directory") from error
    except PermissionError as error:
        raise MountpointForbidden(
            f"cannot mount on {path}: permission denied; run it as a user who may, or name another directory"
        ) from error
    if first is not None:
        raise MountpointInvalid(
            f"cannot mount on {path}: it is not empty (it has {first.name!r}), and the mount would hide that"
        )
    if os.geteuid() != 0 and not os.access(mountpoint, os.W_OK):
        raise MountpointInvalid(f"cannot mount on {path}: without root it must be a directory you can write")
    return mountpoint


def is_dead(mountpoint: Path) -> bool:
    """Whether nobody serves what is mounted on *mountpoint*; a server that is stuck is somebody."""
    # In a child: a server that is stuck lets nobody go who asks it, not even for a signal.
    child = os.fork()
    if not child:
        gc.freeze()  # what the parent has is not ours to collect
        dead = False
        try:
            # Not stat: the kernel has the attributes of our mounts for good, also when nobody serves them.
            os.statvfs(mountpoint)
        except OSError as error:
            dead = error.errno in _DEAD
        finally:
            os._exit(int(dead))
    ended = False
    try:
        ended = await_end(child, _ANSWER_SECONDS)
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)  # not waited for: it may end only when the server does
    return ended and os.waitpid(child, 0)[1] != 0


def detach(mountpoint: Path, *, lazy: bool) -> None:
    """Take the topmost mount off *mountpoint* (absolute, without links); *lazy*: even while it is in use.

    Raises:
        MountBusy: it is in use.
        NotMounted: nothing is mounted there.
        MountImpossible: the system refused for another reason.
    """
    if os.geteuid() == 0:
        try:
            syscalls.unmount(mountpoint, lazy=lazy)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise _busy(mountpoint) from error
            if error.errno == errno.EINVAL:
                raise NotMounted(f"unmounting {mountpoint}: nothing is mounted there") from error
            raise MountImpossible(f"unmounting {mountpoint}: {error.strerror}") from error
        return
    import shutil
    import subprocess

    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise MountImpossible(f"unmounting {mountpoint}: no program fusermount; install the package fuse3")
    done = subprocess.run(
        [program, "-u", *(["-z"] if lazy else []), "--", mountpoint],
        capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return
    reason = " ".join(done.stderr.split()) or f"{program} ended with {done.returncode}"
    if "busy" in reason:
        raise _busy(mountpoint)
    if "not found in" in reason:
        raise NotMounted(f"unmounting {mountpoint}: nothing is mounted there that this user may unmount")
    raise MountImpossible(f"unmounting {mountpoint}: {reason}")


def _busy(mountpoint: Path) -> MountBusy:
    inside = [entry.mountpoint for entry in mount_table() if mountpoint in entry.mountpoint.parents]
    if inside:
        return MountBusy(f"unmounting {mountpoint}: {inside[-1]} is mounted in it; unmount that first")
    return MountBusy(
        f"unmounting {mountpoint}: it is in use (open files, or a shell inside); close them, or use --lazy"
    )
