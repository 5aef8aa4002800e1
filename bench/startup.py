"""Compares cold starts: contestants take turns on the same image and link; medians are reported.

The clock runs from the first command to the program's READY line. Before each start the client's store is
new and, as root, the kernel's caches are dropped; the registry's own files are then read once, so that its
disk is not part of the measurement. Serves `nopull bench startup` and the demo.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.contestants import Contestant
from bench.machine import describe_machine, describe_versions
from bench.ready_line import time_start
from bench.registry_server import sum_traffic
from bench.result import Counters, Image, Result, Run
from bench.stage import Route, Stage

TIMEOUT_SECONDS = 300.0
PIECE_BYTES = 1 << 20
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What to run: each contestant *runs* times over each route; *ready* None: the first line of output."""

    contestants: Sequence[Contestant]
    routes: Sequence[Route]
    runs: int
    ready: re.Pattern[str] | None


def compare(
    stage: Stage, image: Image, comparison: Comparison, *, on_run: Callable[[Run], None] = lambda run: None
) -> Result:
    """Run the comparison and return all of it; *on_run* gets each run when it is done.

    Raises:
        BenchError: a contestant failed; nothing of it is left behind.
    """
    result = Result(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        image=image,
        machine=describe_machine(),
        versions=describe_versions(),
        conditions=conditions(comparison),
        commands={},
        bits_per_second={route.name: route.bits_per_second for route in comparison.routes},
    )
    runs: list[Run] = []
    commands: dict[str, list[str]] = {}
    for route in comparison.routes:
        for number in range(1, comparison.runs + 1):
            for contestant in comparison.contestants:
                run, typed = run_once(stage, contestant, route, number, comparison.ready)
                runs.append(run)
                commands[contestant.name] = typed
                on_run(run)
    return replace(result, runs=runs, commands=commands)


def run_once(
    stage: Stage, contestant: Contestant, route: Route, number: int, ready: re.Pattern[str] | None
) -> tuple[Run, list[str]]:
    """Start once, cold; return the measurement and the commands as typed."""
    seen: list[tuple[int, int, int | None, Counters | None]] = []
    with contestant.prepared(route, number) as commands:
        make_cold(stage)
        mark, wire_before = stage.registry.mark(), stage.wire_bytes()

        def look() -> None:
            wire = stage.wire_bytes()
            traffic = sum_traffic(stage.registry.accesses(mark))
            wire_bytes = None if wire is None or wire_before is None else wire - wire_before
            seen.append((traffic.requests, traffic.bytes_sent, wire_bytes, contestant.counters()))

        start = time_start(commands, ready=ready, at_ready=look, timeout=TIMEOUT_SECONDS)
        typed = [_as_typed(command, stage.scratch) for command in commands]
    requests, sent, wire_bytes, counters = seen[0]
    on_link = wire_bytes if route.bits_per_second is not None else None
    return Run(route.name, contestant.name, number, start.seconds, requests, sent, on_link, counters), typed


def make_cold(stage: Stage) -> None:
    """Drop the kernel's caches where we may, then warm the registry's files again."""
    if os.geteuid() == 0:
        os.sync()
        with contextlib.suppress(OSError):  # a container without the right to: said in the conditions
            DROP_CACHES.write_text("3")
    for file in sorted((stage.registry.directory / "content").rglob("data")):
        with file.open("rb") as content:
            while content.read(PIECE_BYTES):
                pass


def conditions(comparison: Comparison) -> list[str]:
    """Return what a reader must know to repeat it."""
    told = [
        f"{comparison.runs} runs of each contestant over each link, taking turns; medians",
        "the clock runs from the first command to the program's ready line",
        "each start has an empty store",
    ]
    if os.geteuid() == 0:
        told.append("the kernel's caches are dropped before each start; the registry's files are warm")
        told.append("the link is a pair of TUN devices with the kernel's TCP on both ends")
    else:
        told.append("not root: the kernel's caches are warm, and the link is a shaping proxy")
    return told


def _as_typed(command: Sequence[str], scratch: Path) -> str:
    """The command as a reader would type it: no namespace, no path of this machine."""
    words = list(command[command.index("--") + 1 :] if command[0] == "nsenter" else command)
    words[0] = Path(words[0]).name
    return " ".join(words).replace(str(scratch), "SCRATCH")
