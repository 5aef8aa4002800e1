"""A containerd of our own, beside whatever the machine runs: what a full pull and start costs today.

Its root, state and socket lie in one directory and its name space for images is ours, so it neither sees
nor disturbs another containerd. Needs root. Serves the measurements only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.child import command_in, run_command, start_child, stop_child, tail
from bench.errors import BenchError
from erofs_fs.mount_table import mount_table

START_SECONDS = 15.0
STOP_SECONDS = 10.0
CGROUPS = Path("/sys/fs/cgroup")

# Without the CRI plug-in: it would ask for a sandbox image and network configurations.
CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{directory}/c.sock"
[ttrpc]
  address = "{directory}/c.ttrpc.sock"
[debug]
  level = "warn"
"""


class Containerd:
    """A running containerd with an empty store, in the given network namespace; a context manager.

    *directory* must be short (a socket's path has at most 107 bytes) and is removed at the end.

    Raises:
        ProgramMissing: containerd is not installed.
        BenchError: it did not answer within START_SECONDS.
    """

    def __init__(self, directory: Path, *, namespace: str | None = None) -> None:
        self.directory = directory
        self.namespace = namespace
        self.images = f"nopull-{os.getpid()}"
        directory.mkdir(parents=True)
        (directory / "config.toml").write_text(CONFIGURATION.format(directory=directory), encoding="utf-8")
        self._log = directory / "containerd.log"
        self._child = start_child(
            ["containerd", "-c", str(directory / "config.toml")], namespace=namespace, stdout=self._log
        )
        try:
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def ctr(self, *words: str) -> list[str]:
        """Return a ctr command that talks to this containerd."""
        return ["ctr", "--address", str(self.directory / "c.sock"), "--namespace", self.images, *words]

    def pull_command(self, image: str) -> list[str]:
        """Return the command that pulls and unpacks `host/repository:tag`."""
        return command_in(self.namespace, self.ctr("image", "pull", "--plain-http", image))

    def run_command(self, image: str, container: str, argv: list[str]) -> list[str]:
        """Return the command that runs a pulled image with our network; *argv* empty: the image's own."""
        return command_in(self.namespace, self.ctr("run", "--rm", "--net-host", image, container, *argv))

    def stop(self) -> None:
        """End its containers, itself, their shims; unmount and remove all it had. Safe to call twice."""
        if self._child.poll() is None:
            self._end_containers()
        stop_child(self._child, seconds=STOP_SECONDS)
        end_shims(self.directory)
        for mountpoint in reversed(mounts_below(self.directory)):
            subprocess.run(["umount", "-l", str(mountpoint)], stderr=subprocess.DEVNULL, check=False)
        for group in Path("/sys/fs/cgroup").glob(f"*/{self.images}"):
            with contextlib.suppress(
                OSError
            ):  # not empty: then a container is still there, and so is its group
                group.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._child.poll() is None:
            answer = subprocess.run(self.ctr("version"), capture_output=True, check=False)
            if answer.returncode == 0:
                return
            time.sleep(0.05)
        raise BenchError(f"starting containerd in {self.directory}: no answer: {tail(self._log)}")

    def _end_containers(self) -> None:
        with contextlib.suppress(BenchError):
            for container in run_command(self.ctr("container", "ls", "-q"), doing="listing").split():
                for words in (("task", "rm", "--force", container), ("container", "rm", container)):
                    subprocess.run(self.ctr(*words), capture_output=True, check=False, timeout=STOP_SECONDS)


def end_shims(directory: Path) -> None:
    """Kill the shims, and with them the containers, of a containerd whose socket was below *directory*."""
    socket_start = os.fsencode(f"{directory}/")
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit():
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"containerd-shim-runc-v2") and any(
                w.startswith(socket_start) for w in words
            ):
                os.kill(int(entry.name), signal.SIGKILL)


def end_groups(name: str) -> None:
    """Kill what still runs in the control groups below *name* and remove them; runc leaves the upper one."""
    for group in [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]:
        for inner in [*group.glob("*/"), group]:
            with contextlib.suppress(OSError):
                for pid in (inner / "cgroup.procs").read_text(encoding="ascii").split():
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(
                OSError
            ):  # a process just killed may still be in it: an empty group stays
                inner.rmdir()


def mounts_below(directory: Path) -> list[Path]:
    """Return the mountpoints at or below a directory, outer ones first."""
    return [entry.mountpoint for entry in mount_table() if entry.mountpoint.is_relative_to(directory)]
