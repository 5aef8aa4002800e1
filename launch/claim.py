"""Keep a mountpoint for ourselves until the mount is there."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from launch.errors import MountBusy
from launch.mountpoint import mount_at, prepare


class Claim:
    """A mountpoint that was checked, and that no other server of ours takes until `release` or the exit."""

    def __init__(self, path: Path) -> None:
        self.mountpoint = prepare(path)
        descriptor = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptors = [descriptor]  # until they are closed
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The other one may have been ready between our check and our lock.
            taken = mount_at(self.mountpoint) is not None
        except BlockingIOError:
            taken = True
        if taken:
            self.release()
            raise MountBusy(f"cannot mount on {path}: another mount there is just being made")

    def release(self) -> None:
        """Let go; safe to call twice, also by two threads at once."""
        with suppress(IndexError):
            os.close(self._descriptors.pop())

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
