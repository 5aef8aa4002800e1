"""The comparison for people without root: a FUSE mount whose files are read, beside a plain download.

Neither is a container start: without root nothing here may run one, so what the program would read is read
instead, whole files where a program touches parts. Serves `bench.startup` where `contestants` cannot.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench.child import run_command
from bench.contestants import Commands, read_counters
from bench.result import NOPULL, Counters
from bench.stage import Route, Stage, nopull_command, remove_scratch

DOWNLOAD = "download only"


class LazyReading:
    """`nopull mount`, then reading what the program needs out of the mount."""

    name = NOPULL

    def __init__(self, stage: Stage, files: Sequence[str]) -> None:
        self._stage = stage
        self._files = list(files)
        self._root = stage.scratch

    @contextlib.contextmanager
    def prepared(self, route: Route, number: int) -> Iterator[Commands]:
        place = self._stage.scratch / f"m{number}"
        self._root, mountpoint = place / "root", place / "mnt"
        mountpoint.mkdir(parents=True)
        options = ["--root", str(self._root), "--plain-http"]
        mount = nopull_command("mount", *options, self._stage.lazy(route), str(mountpoint))
        reader = [sys.executable, "-P", "-m", "bench.read_start", str(mountpoint), *self._files]
        unmount = nopull_command("umount", "--root", str(self._root), str(mountpoint))
        try:
            yield [mount, reader]
            run_command(unmount, doing="unmounting the image")
        except BaseException:
            subprocess.run(unmount, capture_output=True, check=False)
            raise
        finally:
            remove_scratch(place)

    def counters(self) -> Counters | None:
        return read_counters(self._root)


class Download:
    """`skopeo copy` of the original image into a directory: neither unpacked nor started."""

    name = DOWNLOAD

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @contextlib.contextmanager
    def prepared(self, route: Route, number: int) -> Iterator[Commands]:
        target = self._stage.scratch / f"d{number}"
        source = f"docker://{self._stage.plain(route)}"
        copy = ["skopeo", "copy", "--src-tls-verify=false", source, f"dir:{target}"]
        try:
            yield [copy, ["echo", "READY downloaded"]]
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def counters(self) -> Counters | None:
        return None
