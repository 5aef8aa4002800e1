"""`nopull bench read`: what reading costs, through FUSE, through the kernel and on ext4, all in one run.

- *miss*: a page of an absent window, in turns with the parts of bringing it alone (`read_parts`).
- *parallel*: 64 readers of distinct absent windows, against the processor time of the parts.
- *warm*: a file that is in the page cache already, read from the disk before.
- *names*: 20 000 names looked at for the first time and again, and what the server was asked for.
- *base*: an image over a base that is here: what travels, and what has to.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from bench.errors import RootNeeded
from bench.kernel_images import MIB, many_names, publish
from bench.machine import describe_machine
from bench.processor import cpu_seconds
from bench.read_parts import Cost, parts_at, percentile
from bench.read_times import (
    NAMES,
    READERS,
    forget_pages,
    half_compressible,
    last_places,
    read_all,
    time_by_name,
    time_byte,
    time_readers,
    time_walk,
    time_whole,
)
from bench.registry_server import RegistryServer
from erofs_fs.pids import await_end
from launch.control import ask
from launch.errors import LaunchError
from launch.fuse_mounts.server import start_mount
from launch.held_signals import HeldSignals
from launch.images.image_request import ImageRequest
from launch.images.lazy_image import LazyImage, open_image
from launch.kernel_mounts.keeper_start import end_keeper
from launch.kernel_mounts.kernel_facts import kernel_facts
from launch.kernel_mounts.kernel_mount import KernelMount
from launch.mount_request import MountRequest
from launch.mountpoint import detach
from launch.mounts import MountRecord
from rafs.blob_meta import BlobMeta
from rafs.windows import Window, cut_windows
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference

FUSE, EROFS, EXT4, TMPFS = "fuse", "erofs", "ext4", "tmpfs"
EXT4_WRITTEN = "ext4 written"
MISSES: Final = 100  # of each kind
EACH: Final = 4  # windows of one reader
WARM_BYTES: Final = 64 * MIB
_MEMORY: Final = "/dev/shm"  # a tmpfs wherever there is a Linux

# Figure: ("at most" or "at least", the limit that the project has set itself).
WANTED: Final[Mapping[str, tuple[str, float]]] = {
    "miss_p50_over_parts": ("at most", 1.3),
    "miss_p99_over_parts": ("at most", 2.0),
    "parallel_share_of_processors": ("at least", 0.7),
    "warm_over_ext4": ("at least", 0.95),
    "names_cold_per_second": ("at least", 10_000),
    "names_again_questions": ("at most", 0),
    "base_bytes_over_unique": ("at most", 1.05),
}

Say = Callable[[str], None]


def measure(runs: int, say: Say) -> dict[str, Any]:
    """All of it.

    Raises:
        RootNeeded, ProgramMissing, BenchError; and what mounting raises.
    """
    if os.geteuid():
        raise RootNeeded("kernel mounts are made by root only; run `nopull bench read` as root")
    with ExitStack() as undo:
        # Not where memory is a file system: the store's files lie on a disk.
        scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nopull-read-", dir="/var/tmp")))
        registry = undo.enter_context(RegistryServer(scratch / "registry"))
        stage = _Stage(scratch, registry, say)
        measured = {
            "miss": stage.misses(),
            "parallel": stage.parallel(runs),
            "warm": stage.warm(runs),
            "names": stage.names(runs),
            "base": stage.base(),
        }
    return {
        "what": "read",
        "machine": describe_machine(),
        "load_average": os.getloadavg(),
        "runs": runs,
        "measured": measured,
        "figures": _figures(measured),
    }


def _figures(measured: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By driver, the figures of `WANTED`."""
    miss, parallel, warm, names = (measured[name] for name in ("miss", "parallel", "warm", "names"))
    figures: dict[str, dict[str, float]] = {}
    for driver in (FUSE, EROFS):
        found = figures[driver] = {}
        if driver in miss:
            for share, name in ((0.5, "p50"), (0.99, "p99")):
                alone = percentile(miss["parts"], share)
                found[f"miss_{name}_over_parts"] = percentile(miss[driver], share) / alone
        if driver in parallel["mb_per_second"]:
            rate = statistics.median(parallel["mb_per_second"][driver])
            found["parallel_share_of_processors"] = rate / parallel["processors_could_mb_per_second"]
        if driver in warm:
            found["warm_over_ext4"] = statistics.median(warm[driver]) / statistics.median(warm[EXT4])
        if driver in names["cold"]:
            found["names_cold_per_second"] = statistics.median(names["cold"][driver])
        if driver in names["again_questions"]:
            found["names_again_questions"] = max(names["again_questions"][driver])
        if driver in measured["base"]:
            base = measured["base"][driver]
            found["base_bytes_over_unique"] = base["received_bytes"] / base["unique_bytes"]
    return figures


def lines(result: Mapping[str, Any]) -> list[str]:
    """The result for people."""
    shown = []
    for name, (bound, limit) in WANTED.items():
        for driver, figures in result["figures"].items():
            if name in figures:
                value = figures[name]
                met = value <= limit if bound == "at most" else value >= limit
                verdict = "met" if met else "MISSED"
                shown.append(f"{name:<30} {driver:<6} {value:>10.2f}   wanted {bound} {limit:g}   {verdict}")
    return shown


class _Stage:
    """One registry, and a state root of its own for each measurement."""

    def __init__(self, scratch: Path, registry: RegistryServer, say: Say) -> None:
        self._scratch = scratch
        self._registry = registry
        self._say = say
        self._options = RegistryOptions()

    def misses(self) -> dict[str, Any]:
        """Seconds of each miss by driver, and of the parts, in turns."""
        self._say(f"{MISSES} misses through each driver, in turns with the parts alone")
        reference = self._publish(half_compressible(3 * MISSES, MIB, 1), "misses")
        found: dict[str, Any] = {"parts": [], "of_parts": {name: [] for name in Cost._fields}}
        with ExitStack() as undo:
            records = {
                driver: record
                for driver in (FUSE, EROFS)
                if (record := undo.enter_context(self._mounted(reference, driver, f"miss-{driver}")))
            }
            image, windows = self._windows(reference)
            kept = self._scratch / "alone"
            kept.mkdir()
            parts = undo.enter_context(parts_at(self._registry.host, "misses", kept))
            order = random.Random(1).sample(windows, len(windows))
            places = last_places(image)
            for number, (meta, window) in enumerate(order[: 3 * MISSES]):
                turn = (FUSE, EROFS, "parts")[number % 3]
                if turn == "parts":
                    cost = parts.bring(meta, window)
                    found["parts"].append(cost.total)
                    for name, value in cost._asdict().items():
                        found["of_parts"][name].append(value)
                elif turn in records:
                    path, offset = places[window.id]
                    seconds = time_byte(records[turn].mountpoint / path, offset)
                    found.setdefault(turn, []).append(seconds)
        return found

    def parallel(self, runs: int) -> dict[str, Any]:
        """Rates of 64 readers by driver, and what the processors could do if they did the parts only."""
        self._say(f"{READERS} readers of distinct windows")
        count = READERS * EACH
        reference = self._publish(half_compressible(count, MIB, 2), "parallel")
        _, windows = self._windows(reference)
        rates: dict[str, list[float]] = {}
        cpu = []
        for run in range(runs):
            for driver in (FUSE, EROFS):
                with self._mounted(reference, driver, f"parallel-{driver}-{run}") as record:
                    if record is None:
                        continue
                    files = [record.mountpoint / f"f{number:05}" for number in range(count)]
                    rates.setdefault(driver, []).append(count * MIB / 1e6 / time_readers(files))
            kept = self._scratch / f"alone-{run}"
            kept.mkdir()
            with parts_at(self._registry.host, "parallel", kept) as parts:
                before = time.process_time() + cpu_seconds(self._registry.pid)
                size = 0
                for meta, window in windows:
                    parts.bring(meta, window)
                    size += window.length
                cpu.append((time.process_time() + cpu_seconds(self._registry.pid) - before) / size)
        cores = len(os.sched_getaffinity(0))
        could = cores / statistics.median(cpu) / 1e6
        return {
            "mb_per_second": rates,
            "cpu_seconds_per_byte": cpu,
            "processors_could_mb_per_second": could,
        }

    def warm(self, runs: int) -> dict[str, list[float]]:
        """MB/s of a file in the page cache, by where it lies."""
        self._say("a file that is in the page cache")
        content = [("large", random.Random(3).randbytes(WARM_BYTES))]
        reference = self._publish(content, "warm")
        rates: dict[str, list[float]] = {}
        with ExitStack() as undo:
            places = {name: self._scratch / name.replace(" ", "-") for name in (EXT4, EXT4_WRITTEN)}
            for path in places.values():
                path.write_bytes(content[0][1])
            # As a mount has them: pages that were written lie in larger pieces than any that were read.
            forget_pages(places[EXT4])
            for driver in (FUSE, EROFS):
                record = undo.enter_context(self._mounted(reference, driver, f"warm-{driver}"))
                if record is not None:
                    places[driver] = record.mountpoint / "large"
            for path in places.values():
                time_whole(path)
            # Much more often than the others: a pass takes some milliseconds.
            for _ in range(10 * runs):
                for name, path in places.items():
                    rates.setdefault(name, []).append(WARM_BYTES / 1e6 / time_whole(path))
        return rates

    def names(self, runs: int) -> dict[str, Any]:
        """Names per second: walked and looked at for the first time, and again."""
        self._say(f"{NAMES} names")
        reference = self._publish(many_names(NAMES, 64), "names")
        found: dict[str, Any] = {"cold": {}, "again": {}, "again_questions": {}, "by_name_cold": {}}
        # What the walking program itself can do: nothing is ever absent from a file system in memory.
        with tempfile.TemporaryDirectory(dir=_MEMORY) as name:
            for path, content in many_names(NAMES, 8):
                place = Path(name) / path
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(content)
            found["cold"][TMPFS] = [time_walk(Path(name)) for _ in range(runs)]
        for run in range(runs):
            for driver in (FUSE, EROFS):
                with self._mounted(reference, driver, f"names-{driver}-{run}") as record:
                    if record is None:
                        continue
                    found["cold"].setdefault(driver, []).append(time_walk(record.mountpoint))
                    before = _asked(record)
                    found["again"].setdefault(driver, []).append(time_walk(record.mountpoint))
                    if driver == FUSE:
                        asked = sum(_asked(record).values()) - sum(before.values())
                        found["again_questions"].setdefault(driver, []).append(asked)
                with self._mounted(reference, driver, f"by-name-{driver}-{run}") as record:
                    if record is not None:
                        rate = time_by_name(record.mountpoint)
                        found["by_name_cold"].setdefault(driver, []).append(rate)
        return found

    def base(self) -> dict[str, dict[str, int]]:
        """Compressed bytes that a second image brings over a base that is here, and those it has to."""
        self._say("a second image over a base that is here")
        shared = list(half_compressible(600, 40_000, 4))
        own = [(f"own-{name}", content) for name, content in half_compressible(60, 40_000, 5)]
        first = self._publish(shared, "first")
        # In another order, so that nothing but the content can be known again.
        second = self._publish([*own[:30], *shared[::-1], *own[30:]], "second")
        found = {}
        for driver in (FUSE, EROFS):
            name = f"base-{driver}"
            with self._mounted(first, driver, name) as record:
                if record is None:
                    continue
                read_all(record.mountpoint)
                _await_complete(record)
                with self._mounted(second, driver, name, "second") as other:
                    assert other is not None
                    read_all(other.mountpoint)
                    progress = _await_complete(other)
            received = sum(progress[kind]["compressed_bytes"] for kind in ("demand", "hot", "background"))
            known = {digest for meta in self._windows(first)[0].blobs for digest in _digests(meta)}
            blobs = self._windows(second)[0].blobs
            unique = sum(_unique_bytes(meta, known) for meta in blobs)
            found[driver] = {"received_bytes": received, "unique_bytes": unique}
        return found

    def _publish(self, files: Iterable[tuple[str, bytes]], name: str) -> str:
        return publish(files, self._scratch, f"{self._registry.host}/{name}:v1")

    def _windows(self, reference: str) -> tuple[LazyImage, list[tuple[BlobMeta, Window]]]:
        image = open_image(parse_reference(reference), self._options, self._scratch / "documents")
        image.close()
        return image, [(meta, window) for meta in image.blobs for window in cut_windows(meta)]

    @contextmanager
    def _mounted(
        self, reference: str, driver: str, name: str, place: str = "mountpoint"
    ) -> Iterator[MountRecord | None]:
        """A mount with a state root called *name*; None where the kernel cannot do it."""
        root = self._scratch / f"root-{name}"
        root.mkdir(exist_ok=True)
        where = self._scratch / f"{name}-{place}"
        where.mkdir()
        image = ImageRequest(parse_reference(reference), self._options, background=False)
        request = MountRequest(image, where, root, driver=driver)
        record = None
        try:
            if driver == FUSE:
                record = start_mount(request)
            else:
                try:
                    with HeldSignals() as held:
                        record = KernelMount(request, "measured").put(where, held)
                except LaunchError as error:
                    self._say(f"left out: {error}")
            yield record
        finally:
            if record is not None:
                detach(where, lazy=True)
                if record.pids:
                    await_end(record.server, 30.0)
            if place == "mountpoint":
                end_keeper(root)


def _asked(record: MountRecord) -> dict[str, int]:
    return dict(ask(record.control)["asked"]) if record.pids else {}


def _await_complete(record: MountRecord) -> dict[str, Any]:
    """What the mount says of itself when all of it is local; what completes it has to have been read."""
    while True:
        progress = ask(record.control)["progress"] if record.pids else kernel_facts(record).progress
        if progress is not None and progress["bytes_present"] == progress["bytes_total"]:
            return dict(progress)
        time.sleep(0.02)


def _digests(meta: BlobMeta) -> Iterator[bytes]:
    for number in range(meta.chunk_count):
        yield meta.chunk(number).digest


def _unique_bytes(meta: BlobMeta, known: set[bytes]) -> int:
    """Compressed bytes of the units in which something is that *known* has not, by what of them that is."""
    total = 0.0
    for index in range(meta.unit_count):
        unit = meta.unit(index)
        chunks = [meta.chunk(unit.first_chunk + number) for number in range(unit.chunk_count)]
        new = sum(chunk.size for chunk in chunks if chunk.digest not in known)
        total += unit.compressed_size * new / unit.uncompressed_size
    return int(total)
