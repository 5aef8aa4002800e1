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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.convert_parts import Parts, measure_parts
from bench.convert_variants import Layers, write_variant
from bench.errors import BenchError
from bench.machine import describe_machine, describe_versions
from builder.discovery import find_ordinary
from rafs.defaults import BATCH_SIZE, CHUNK_SIZE, COMPRESSION_LEVEL
from registry_client import open_source
from registry_client.options import RegistryOptions
from registry_client.platform import host_platform
from registry_client.reference import parse_reference
from registry_client.sizes import megabytes
from registry_client.source import ImageSource

# Its own peak, told as the last line: what wait4 says of a child includes the parent it was forked from.
_PROGRAM = """
import re, sys, nopull
status = nopull.main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""

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
    """Everything of one run of the measurement; `runs` are repeated conversions, `table` one of each."""

    image: str
    layers: Layers
    parts: Parts
    runs: tuple[Conversion, ...]
    table: tuple[Conversion, ...]

    @property
    def best(self) -> Conversion:
        """The fastest."""
        return min(self.runs, key=lambda one: one.seconds)

    @property
    def bound(self) -> float:
        """Bytes of unpacked layers per second at best: of all parts, or of unpacking where all is known."""
        if self.layers is Layers.KNOWN:
            return self.parts.tar_bytes / self.parts.seconds["gunzip"]
        return self.parts.bound(cores())

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "image": self.image,
            "machine": describe_machine(),
            "versions": describe_versions(),
            "layers": self.layers.value,
            "parts": asdict(self.parts),
            "bound": self.bound,
            "runs": [asdict(one) for one in self.runs],
            "table": [asdict(one) for one in self.table],
        }


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def measure(
    image: str,
    *,
    runs: int,
    table: bool = False,
    layers: Layers = Layers.AS_THEY_ARE,
    choice: Choice = Choice(),
    tell: Callable[[str], None],
) -> Measured:
    """Measure conversions of *image*, an `oci:` layout; *tell* gets a line per step.

    Raises:
        BenchError: a conversion failed. What `registry_client` and `builder` raise for *image*.
    """
    with tempfile.TemporaryDirectory(prefix="nopull-bench-", dir="/var/tmp") as scratch:
        known = Path(scratch, "known") if layers is Layers.KNOWN else None
        if known is not None:
            tell("converting what will be known")
            convert_once(image, choice, known)
        if layers is not Layers.AS_THEY_ARE:
            tell(f"making layers {layers.value}")
            with _opened(image) as source:
                manifest = find_ordinary(source, host_platform())
                image = write_variant(source, manifest, layers, Path(scratch, "variant"))
        tell("each part alone")
        with _opened(image) as source:
            manifest = find_ordinary(source, host_platform())
            parts = measure_parts(
                source,
                manifest,
                chunk_size=choice.chunk_size,
                batch_size=choice.batch_size,
                level=choice.level,
            )
        chosen = []
        for number in range(runs):
            tell(f"conversion {number + 1} of {runs}")
            chosen.append(convert_once(image, choice, known))
        rows = _table(image, tell) if table else []
    return Measured(image, layers, parts, tuple(chosen), tuple(rows))


@contextmanager
def _opened(image: str) -> Iterator[ImageSource]:
    source = open_source(parse_reference(image), RegistryOptions())
    try:
        yield source
    finally:
        source.close()


def _table(image: str, tell: Callable[[str], None]) -> list[Conversion]:
    choices = [
        Choice(chunk, batch, level) for level in LEVELS for batch in BATCH_SIZES for chunk in CHUNK_SIZES
    ]
    rows = []
    for choice in choices:
        tell(f"chunks {choice.chunk_size >> 10}K, units {choice.batch_size >> 20}M, level {choice.level}")
        rows.append(convert_once(image, choice))
    return rows


def convert_once(image: str, choice: Choice, known: Path | None = None) -> Conversion:
    """Convert *image* into a layout that is removed afterwards, or into *known* with its image as dictionary.

    Raises:
        BenchError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="nopull-bench-", dir="/var/tmp") as scratch:
        dictionary = ["--chunk-dict", f"oci:{known}:lazy"] if known is not None and known.exists() else []
        destination = known or Path(scratch, "out")
        command = [
            *(sys.executable, "-P", "-c", _PROGRAM, "convert", "--json", "--no-reuse", *dictionary),
            *("--chunk-size", str(choice.chunk_size), "--batch-size", str(choice.batch_size)),
            *("--compression-level", str(choice.level)),
            *(image, f"oci:{destination}:{'again' if dictionary else 'lazy'}"),
        ]
        told, peak_bytes, usage = _run(command, Path(scratch))
    (report,) = told["images"]
    return Conversion(
        choice=choice,
        seconds=told["seconds"],
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=peak_bytes,
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


def _run(command: Sequence[str], scratch: Path) -> tuple[dict[str, Any], int, Any]:
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
        report, _, peak = told.read().rstrip().rpartition(b"\n")
        return json.loads(report), int(peak) << 10, usage


def result_lines(found: Measured) -> Iterator[str]:
    """Yield what people read."""
    parts, best = found.parts, found.best
    bound = found.bound
    unpacked, stored = megabytes(parts.tar_bytes), megabytes(parts.source_bytes)
    yield f"{found.image}: {unpacked} unpacked, {stored} stored, {cores()} cores"
    yield ""
    yield "part          ns per unpacked byte    MB/s on one core"
    for name, seconds in parts.seconds.items():
        if seconds:
            each = seconds / parts.tar_bytes
            yield f"{name:<12}  {each * 1e9:20.2f}    {1 / each / 1e6:16.0f}"
    each = parts.total / parts.tar_bytes
    yield f"{'all':<12}  {each * 1e9:20.2f}    {1 / each / 1e6:16.0f}"
    yield ""
    what = "gunzip alone" if found.layers is Layers.KNOWN else f"{cores()} / sum"
    yield f"at best {what}: {bound / 1e6:.0f} MB/s"
    yield (
        f"converted at {best.speed / 1e6:.0f} MB/s ({best.seconds:.2f} s), {best.speed / bound:.2f} of that; "
        f"{best.cpu_seconds:.1f} s of processor time, the parts alone {parts.total:.1f} s; "
        f"{megabytes(best.peak_bytes)} of memory at most"
    )
    size = "new" if found.layers is Layers.KNOWN else f"stored, {best.ratio:.3f} of the ordinary image"
    yield (
        f"{megabytes(best.stored_bytes)} {size}; bootstrap {megabytes(best.bootstrap_bytes)}, "
        f"with its layer's other files {megabytes(best.bootstrap_layer_bytes)} packed"
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
                megabytes(one.bootstrap_bytes),
                megabytes(one.bootstrap_layer_bytes),
                str(one.chunks),
            )
            yield f"| {' | '.join(columns)} |"


def write_json(found: Measured, path: Path) -> None:
    """Write everything that was measured."""
    document = {"measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **found.to_json()}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
