"""`nopull bench whole`: never slower than a full pull, whatever is started, over 20 ms and 200 Mbit/s.

Three starts: the demo's program; one that imports numpy, pandas and scikit-learn; a reader of every file.
Each is held against the time in which the whole image, as compressed as it was before, passes the link, plus
the same start when everything is on the local disk already. All are cold: a new store, caches dropped.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bench import demo_image, science_image
from bench.child import command_in, run_command
from bench.contestants import Commands, LazyStart
from bench.errors import RootNeeded
from bench.machine import describe_machine, describe_versions
from bench.result import NOPULL, NOPULL_FUSE, Image, Run
from bench.stage import DEMO_ROUTE, Route, Stage, convert, describe_image, nopull_command, open_stage, publish
from bench.startup import run_once

LIMIT: Final = 1.1
READY: Final = re.compile("^READY")
EVERY_FILE: Final = (
    "/bin/sh", "-c", "find / -xdev -type f -exec cat {} + > /dev/null; echo READY; read line || :",
)  # fmt: skip
LOCAL: Final = " (local)"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Start:
    """What is started, of which image."""

    name: str
    image: str
    argv: Sequence[str] = ()


class LocalStart(LazyStart):
    """The same start when everything of the image is in the store."""

    def __init__(self, stage: Stage, argv: Sequence[str], driver: str | None = None) -> None:
        super().__init__(stage, argv, driver)
        self.name += LOCAL

    @contextlib.contextmanager
    def prepared(self, route: Route, number: int) -> Iterator[Commands]:
        with super().prepared(route, number) as commands:
            pull = nopull_command("pull", "--root", str(self._root), "--plain-http", self._stage.lazy(route))
            run_command(command_in(route.namespace, pull), doing="pulling the image")
            yield commands


def measure(runs: int, say: Say) -> dict[str, Any]:
    """All of it.

    Raises:
        RootNeeded, ProgramMissing, BenchError.
    """
    if os.geteuid():
        raise RootNeeded("the link needs root; run `nopull bench whole` as root")
    cache = demo_image.cache_directory()
    demo = demo_image.build_demo_image(cache, tell=say)
    science = science_image.build_science_image(demo, cache, tell=say)
    starts = [
        Start("demo program", demo.reference),
        Start("every file", demo.reference, EVERY_FILE),
        Start("numpy, pandas, scikit-learn", science.reference),
    ]
    measured: list[dict[str, Any]] = []
    for reference in dict.fromkeys(start.image for start in starts):
        with ExitStack() as undo:
            stage = undo.enter_context(open_stage([DEMO_ROUTE]))
            say(f"publishing and converting {reference.rpartition(':')[2]}")
            publish(stage, reference)
            convert(stage)
            image = describe_image(stage, reference.rpartition(":")[2])
            measured += [
                _measured(stage, image, start, runs, say) for start in starts if start.image == reference
            ]
    return {
        "what": "whole",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "load_average": os.getloadavg(),
        "runs": runs,
        "starts": measured,
    }


def _measured(stage: Stage, image: Image, start: Start, runs: int, say: Say) -> dict[str, Any]:
    (route,) = stage.routes
    assert route.bits_per_second is not None, "the link has a rate"
    contestants: list[LazyStart] = []
    for driver in (None, "fuse"):
        contestants += [LazyStart(stage, start.argv, driver), LocalStart(stage, start.argv, driver)]
    found: list[Run] = []
    for number in range(1, runs + 1):
        for contestant in contestants:
            run, _ = run_once(stage, contestant, route, number, READY)
            found.append(run)
            say(f"{start.name}: {run.contestant} {run.seconds:.2f} s")
    link = 8 * image.compressed_bytes / route.bits_per_second
    figures = {}
    for name in (NOPULL, NOPULL_FUSE):
        seconds, local = (
            statistics.median(run.seconds for run in found if run.contestant == wanted)
            for wanted in (name, name + LOCAL)
        )
        figures[name] = {
            "seconds": seconds,
            "local_seconds": local,
            "link_seconds": link,
            "ratio": seconds / (link + local),
        }
    return {
        "start": start.name,
        "image": asdict(image),
        "figures": figures,
        "runs": [asdict(run) for run in found],
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    shown = []
    for start in result["starts"]:
        for name, found in start["figures"].items():
            verdict = "met" if found["ratio"] <= LIMIT else "MISSED"
            bound = f"link {found['link_seconds']:.2f} s + local {found['local_seconds']:.2f} s"
            shown.append(
                f"{start['start']:<28} {name:<13} {found['seconds']:>6.2f} s, {bound}:"
                f" {found['ratio']:.2f}   wanted at most {LIMIT}   {verdict}"
            )
    return shown
