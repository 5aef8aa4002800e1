"""Who is timed: nopull's lazy start and containerd's full pull, each cold, each as a user would type it.

A contestant prepares a clean place, says which commands start the program, reads counters while the program
waits, and cleans up. It neither takes the time nor knows how often it runs. Serves `bench.startup`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from bench.child import command_in
from bench.containerd import Containerd
from bench.result import FULL_PULL, NOPULL, NOPULL_FUSE, Counters, Fetched
from bench.stage import Route, Stage, nopull_command, remove_scratch
from launch import control, mounts
from launch.containers import containers
from launch.kernel_mounts.keeper_start import end_keeper
from launch.kernel_mounts.kernel_facts import kernel_facts

Commands = Sequence[Sequence[str]]


class Contestant(Protocol):
    """One way to start the image."""

    name: str

    def prepared(self, route: Route, number: int) -> contextlib.AbstractContextManager[Commands]:
        """Make a clean place; yield the commands of one start, the last being the program; clean up."""

    def counters(self) -> Counters | None:
        """Return what it knows of itself now, while the program waits; None if it keeps no counts."""


class FullPull:
    """containerd: `ctr image pull`, then `ctr run`, with a store that is new each time."""

    name = FULL_PULL

    def __init__(self, stage: Stage, argv: Sequence[str]) -> None:
        self._stage = stage
        self._argv = list(argv)

    @contextlib.contextmanager
    def prepared(self, route: Route, number: int) -> Iterator[Commands]:
        image = self._stage.plain(route)
        with Containerd(self._stage.scratch / f"c{number}", namespace=route.namespace) as containerd:
            container = f"nopull-bench-{os.getpid()}-{number}"
            yield [containerd.pull_command(image), containerd.run_command(image, container, self._argv)]

    def counters(self) -> Counters | None:
        return None


class LazyStart:
    """`nopull run` of the converted image, with a state directory that is new each time."""

    def __init__(self, stage: Stage, argv: Sequence[str], driver: str | None = None) -> None:
        """*driver* None: the one that nopull takes by itself."""
        self.name = NOPULL if driver is None else NOPULL_FUSE
        self._stage = stage
        self._argv = list(argv)
        self._driver = [] if driver is None else ["--driver", driver]
        self._root = stage.scratch

    @contextlib.contextmanager
    def prepared(self, route: Route, number: int) -> Iterator[Commands]:
        self._root = self._stage.scratch / f"n{number}{'-'.join(self._driver)}"
        options = ["--root", str(self._root), "--plain-http", "--interactive", *self._driver]
        command = nopull_command("run", *options, self._stage.lazy(route), *self._argv)
        try:
            yield [command_in(route.namespace, command)]
        finally:
            # A container that ignored its end outlives the nopull that had to be killed.
            containers.remove_stale(self._root)
            end_keeper(self._root)
            remove_scratch(self._root)

    def counters(self) -> Counters | None:
        return read_counters(self._root)


def read_counters(root: Path) -> Counters | None:
    """Return what the one mount below a state directory says of itself; None if there is none any more."""
    for record in mounts.records(root):
        if record.pids:
            return counters_of(control.ask(record.control)["progress"], peak_memory(record.pids.values()))
        facts = kernel_facts(record)
        if facts.progress is None or "demand" not in facts.progress:
            return None  # whoever filled it was killed
        return replace(counters_of(facts.progress, peak_memory(facts.pids.values())), touched_bytes=None)
    return None


def counters_of(progress: dict[str, Any], memory: int) -> Counters:
    """Return the counters in what a mount's control socket answers under `progress`."""
    fetched = {
        name: Fetched(requests=progress[name]["requests"], bytes=progress[name]["compressed_bytes"])
        for name in ("demand", "hot", "background")
    }
    return Counters(
        demand=fetched["demand"],
        hot=fetched["hot"],
        background=fetched["background"],
        touched_bytes=progress["touched_bytes"],
        image_bytes=progress["bytes_total"],
        waited_seconds=progress["waited_seconds"],
        peak_memory_bytes=memory,
    )


def peak_memory(pids: Iterable[int]) -> int:
    """Return the sum of the largest resident sizes the processes have had, in bytes; 0 if all are gone."""
    return sum(_peak(pid) for pid in pids)


def _peak(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0
