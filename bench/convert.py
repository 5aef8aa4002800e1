"""How fast an image is converted, how close that is to the sum of its parts, and what the sizes cost.

Each conversion is a `nopull convert` of its own from and to an image layout on this machine's disk, so a
network has no part in it and nothing is remembered from one run to the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.convert_parts import Parts, measure_parts
from bench.errors import BenchError
from bench.machine import describe_machine, describe_versions
from builder.discovery import find_ordinary
from rafs.defaults import BATCH_SIZE, CHUNK_SIZE, COMPRESSION_LEVEL
from registry_client import open_source
from registry_client.options import RegistryOptions
from registry_client.platform import host_platform
from registry_client.reference import parse_reference

CHUNK_SIZES = (64 << 10, 256 << 10, 1 << 20)
BATCH_SIZES = (1 << 20, 2 << 20, 4 << 20)
LEVELS = (3, 6, 9)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a conversion is told; sizes in bytes."""

    chunk_size: int = CHUNK_SIZE
    batch_size: int = BATCH_SIZE
    level: int = COMPRESSION_LEVEL


@dataclass(frozen=True, slots=True)
class Conversion:
    """One conversion: seconds of wall time inside it and of processor time altogether, peak memory, sizes."""

    choice: Choice
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    tar_bytes: int
    source_bytes: int
    stored_bytes: int
    bootstrap_bytes: int
    bootstrap_layer_bytes: int
    chunks: int

    @property
    def speed(self) -> float:
        """Bytes of unpacked layers per second."""
        return self.tar_bytes / self.seconds

    @property
    def ratio(self) -> float:
        """What is stored, of what the ordinary image has."""
        return self.stored_bytes / self.source_bytes


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything of one run of the measurement; `defaults` are repeated conversions, `table` one of each."""

    image: str
    parts: Parts
    defaults: tuple[Conversion, ...]
    table: tuple[Conversion, ...]

    @property
    def best(self) -> Conversion:
        """The fastest with the default options."""
        return min(self.defaults, key=lambda one: one.seconds)

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "image": self.image,
            "machine": describe_machine(),
            "versions": describe_versions(),
            "parts": asdict(self.parts),
            "bound": self.parts.bound(cores()),
            "defaults": [asdict(one) for one in self.defaults],
            "table": [asdict(one) for one in self.table],
        }


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def measure(image: str, *, runs: int, table: bool, tell: Callable[[str], None]) -> Measured:
    """Measure conversions of *image*, an `oci:` layout; *tell* gets a line per step.

    Raises:
        BenchError: a conversion failed. What `registry_client` and `builder` raise for *image*.
    """
    source = open_source(parse_reference(image), RegistryOptions())
    try:
        tell("each part alone")
        manifest = find_ordinary(source, host_platform())
        parts = measure_parts(
            source, manifest, chunk_size=CHUNK_SIZE, batch_size=BATCH_SIZE, level=COMPRESSION_LEVEL
        )
    finally:
        source.close()
    defaults = []
    for number in range(runs):
        tell(f"conversion {number + 1} of {runs} with the default options")
        defaults.append(convert_once(image, Choice()))
    choices = [
        Choice(chunk, batch, level) for level in LEVELS for batch in BATCH_SIZES for chunk in CHUNK_SIZES
    ]
    rows = []
    for choice in choices if table else []:
        tell(f"chunks {choice.chunk_size >> 10}K, units {choice.batch_size >> 20}M, level {choice.level}")
        rows.append(convert_once(image, choice))
    return Measured(image, parts, tuple(defaults), tuple(rows))


def convert_once(image: str, choice: Choice) -> Conversion:
    """Convert *image* into a layout that is removed afterwards.

    Raises:
        BenchError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="nopull-bench-", dir="/var/tmp") as scratch:
        command = [
            *(sys.executable, "-P", "-m", "nopull", "convert", "--json", "--no-reuse"),
            *("--chunk-size", str(choice.chunk_size), "--batch-size", str(choice.batch_size)),
            *("--compression-level", str(choice.level), image, f"oci:{scratch}/out:lazy"),
        ]
        told, usage = _run(command, Path(scratch))
    (report,) = told["images"]
    return Conversion(
        choice=choice,
        seconds=told["seconds"],
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss << 10,
        **{
            name: report[name]
            for name in (
                "tar_bytes",
                "source_bytes",
                "stored_bytes",
                "bootstrap_bytes",
                "bootstrap_layer_bytes",
                "chunks",
            )
        },
    )


def _run(command: Sequence[str], scratch: Path) -> tuple[dict[str, Any], Any]:
    with (scratch / "told").open("w+b") as told, (scratch / "said").open("w+b") as said:
        child = subprocess.Popen(command, stdout=told, stderr=said, stdin=subprocess.DEVNULL)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()[-1:]
            raise BenchError(f"converting {command[-2]}: it ended with {child.returncode}: {words}")
        told.seek(0)
        return json.loads(told.read()), usage


def result_lines(found: Measured) -> Iterator[str]:
    """Yield what people read."""
    parts, best = found.parts, found.best
    bound = parts.bound(cores())
    yield f"{found.image}: {_mb(parts.tar_bytes)} unpacked, {_mb(parts.source_bytes)} stored, {cores()} cores"
    yield ""
    yield "part          ns per unpacked byte    MB/s on one core"
    for name, seconds in parts.seconds.items():
        if seconds:
            each = seconds / parts.tar_bytes
            yield f"{name:<12}  {each * 1e9:20.2f}    {1 / each / 1e6:16.0f}"
    each = parts.total / parts.tar_bytes
    yield f"{'all':<12}  {each * 1e9:20.2f}    {1 / each / 1e6:16.0f}"
    yield ""
    yield f"at best {cores()} / sum: {bound / 1e6:.0f} MB/s"
    yield (
        f"converted at {best.speed / 1e6:.0f} MB/s ({best.seconds:.2f} s), {best.speed / bound:.2f} of that; "
        f"{best.cpu_seconds:.1f} s of processor time, the parts alone {parts.total:.1f} s; "
        f"{_mb(best.peak_bytes)} of memory at most"
    )
    yield (
        f"stored {_mb(best.stored_bytes)}, {best.ratio:.3f} of the ordinary image; bootstrap "
        f"{_mb(best.bootstrap_bytes)}, with its layer's other files {_mb(best.bootstrap_layer_bytes)} packed"
    )
    if found.table:
        yield ""
        yield "| chunk | unit | level | size | MB/s | CPU s | bootstrap | its layer, packed | chunks |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for one in found.table:
            columns = (
                f"{one.choice.chunk_size >> 10}K",
                f"{one.choice.batch_size >> 20}M",
                str(one.choice.level),
                f"{one.ratio:.3f}",
                f"{one.speed / 1e6:.0f}",
                f"{one.cpu_seconds:.1f}",
                _mb(one.bootstrap_bytes),
                _mb(one.bootstrap_layer_bytes),
                str(one.chunks),
            )
            yield f"| {' | '.join(columns)} |"


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def write_json(found: Measured, path: Path) -> None:
    """Write everything that was measured."""
    document = {"measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **found.to_json()}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
