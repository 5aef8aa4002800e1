"""What a comparison of starts found: every run, medians over them, and the floors nobody can beat.

Plain values only; the JSON form is what is published, so its keys are stable. Sizes are bytes, times seconds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError

NOPULL = "nopull"  # by the driver that it takes by itself
NOPULL_FUSE = "nopull, FUSE"
FULL_PULL = "containerd"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one reason to fetch had cost by the time the program was ready: requests, compressed bytes."""

    requests: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What nopull's own mount said at that moment; sizes of what was touched are uncompressed."""

    demand: Fetched
    hot: Fetched
    background: Fetched
    touched_bytes: int | None  # None: the kernel does not tell
    image_bytes: int
    waited_seconds: float
    peak_memory_bytes: int

    @property
    def demanded_bytes(self) -> int:
        """Compressed bytes that the start itself asked for: demand and hot list."""
        return self.demand.bytes + self.hot.bytes


@dataclass(frozen=True, slots=True)
class Run:
    """One start. *logged* values are the registry's (completed answers), *wire_bytes* the link's own."""

    link: str
    contestant: str
    number: int
    seconds: float
    logged_requests: int
    logged_bytes: int
    wire_bytes: int | None = None
    counters: Counters | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """What was started: the original and its converted form."""

    reference: str
    layers: int
    compressed_bytes: int
    converted_digest: str = ""
    converted_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A whole comparison."""

    made: str
    image: Image
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    conditions: Sequence[str]
    commands: Mapping[str, Sequence[str]]
    bits_per_second: Mapping[str, float | None]
    runs: Sequence[Run] = field(default_factory=tuple)

    def links(self) -> list[str]:
        """Return the links in the order they were measured."""
        return list(dict.fromkeys(run.link for run in self.runs))

    def contestants(self) -> list[str]:
        """Return the contestants in the order they ran."""
        return list(dict.fromkeys(run.contestant for run in self.runs))

    def of(self, link: str, contestant: str) -> list[Run]:
        """Return the runs of one contestant over one link."""
        return [run for run in self.runs if (run.link, run.contestant) == (link, contestant)]

    def median_seconds(self, link: str, contestant: str) -> float | None:
        """Return the median time to ready, None if it did not run there."""
        runs = self.of(link, contestant)
        return statistics.median(run.seconds for run in runs) if runs else None

    def ratio(self, link: str) -> float | None:
        """Return nopull's median time over that of the full pull, None if either did not run."""
        ours, theirs = self.median_seconds(link, NOPULL), self.median_seconds(link, FULL_PULL)
        return None if ours is None or theirs is None else ours / theirs

    def demanded_share(self, link: str) -> float | None:
        """Return the median of demanded bytes over the compressed size of the original image."""
        found = [run.counters.demanded_bytes for run in self.of(link, NOPULL) if run.counters is not None]
        return statistics.median(found) / self.image.compressed_bytes if found else None

    def floor_seconds(self, link: str, size: int) -> float | None:
        """Return the least time *size* bytes need over a link; None where its rate is not known."""
        rate = self.bits_per_second.get(link)
        return None if rate is None else 8 * size / rate

    def to_json(self) -> str:
        """Return the published form."""
        return json.dumps({"what": "startup", **asdict(self), "summary": self._summary()}, indent=1) + "\n"

    def _summary(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for link in self.links():
            for contestant in self.contestants():
                seconds = [run.seconds for run in self.of(link, contestant)]
                if seconds:
                    lines.append(
                        {
                            "link": link,
                            "contestant": contestant,
                            "median_seconds": statistics.median(seconds),
                            "min_seconds": min(seconds),
                            "max_seconds": max(seconds),
                        }
                    )
            lines.append(
                {
                    "link": link,
                    "ratio": self.ratio(link),
                    "demanded_share": self.demanded_share(link),
                    "floor_whole_image_seconds": self.floor_seconds(link, self.image.compressed_bytes),
                }
            )
        return lines


def read_result(path: Path) -> Result:
    """Read a result file that `to_json` wrote.

    Raises:
        BenchError: it is not one.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Result(
            made=raw["made"],
            image=Image(**raw["image"]),
            machine=raw["machine"],
            versions=raw["versions"],
            conditions=raw["conditions"],
            commands=raw["commands"],
            bits_per_second=raw["bits_per_second"],
            runs=[_run(one) for one in raw["runs"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"reading {path}: not a result of `bench startup --json` ({error!r})") from error


def _run(raw: Mapping[str, Any]) -> Run:
    counters = raw["counters"]
    if counters is not None:
        classes = {name: Fetched(**counters[name]) for name in ("demand", "hot", "background")}
        counters = Counters(**{**counters, **classes})
    return Run(**{**raw, "counters": counters})
