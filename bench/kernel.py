"""`nopull bench kernel`: what kernel mounts cost, each figure beside the cost of its parts in the same run.

- *miss*: a page of an absent window is read through the mount; what it takes beyond the filler's own fetch of
  that window is the way from kernel to keeper to filler and back. Beside it, what as many wake-ups of another
  process take, and fetches by a store of this process.
- *mount*: an image whose windows exist, and one whose windows have to be made, beside making them alone;
  asked of a filler that runs, as any mount but the first.
- *many*: memory and processor time of keeper and filler with a hundred mounts that all lack something.
- *readahead*: how often a read of what is there waits for what is not, and how fast what is there is read.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError, RootNeeded
from bench.kernel_images import MIB, incompressible, many_names, publish, repetitive
from bench.machine import describe_machine
from bench.processor import cpu_seconds, round_trips
from bench.registry_server import RegistryServer
from chunk_store import ChunkStore
from chunk_store.doorway import WINDOWS as SHELVES
from chunk_store.window_file import WindowDirectory
from erofs_fs import readahead
from erofs_fs.localised_file import devices_of
from launch.held_signals import HeldSignals
from launch.images.image_request import ImageRequest
from launch.images.lazy_image import open_image
from launch.images.localised_image import kept_image
from launch.kernel_mounts.keeper_start import end_keeper, keeper_status
from launch.kernel_mounts.kernel_facts import kernel_facts
from launch.kernel_mounts.kernel_mount import KernelMount
from launch.mount_request import MountRequest
from launch.mountpoint import detach
from launch.mounts import MountRecord
from rafs.windows import cut_windows, find_window
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference

MISSES: Final = 200
NAMES: Final = 35_000
NEW_WINDOWS: Final = 2_000
MOUNTS: Final = 100
IMAGES: Final = 20
_SETTLING_SECONDS: Final = 5.0  # the keeper looks at a new mount's hold three times, a second apart
IDLE_SECONDS: Final = 10.0
READAHEADS: Final = (0, 32, 64, 128, 256, 512)  # KiB
_FILES, _FILE_BYTES, _LOCAL_BYTES = 24, 8 * MIB, 4 * MIB
_WALKS, _STEPS, _PAGE = 150, 32, 4096

WANTED: Final = {
    "miss_overhead_p50_us": 150.0,
    "mount_ms": 50.0,
    "new_windows_ratio": 1.3,
    "hundred_mounts_anon_mb": 80.0,
    "hundred_mounts_cpu_ms": 0.0,
}

Say = Callable[[str], None]


def measure(runs: int, say: Say) -> dict[str, Any]:
    """All of it.

    Raises:
        RootNeeded, ProgramMissing, BenchError; erofs_fs.ErofsError, this kernel cannot do it.
    """
    if os.geteuid():
        raise RootNeeded("kernel mounts are made by root only; run `nopull bench kernel` as root")
    with ExitStack() as undo:
        scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nopull-bench-")))
        registry = undo.enter_context(RegistryServer(scratch / "registry"))
        stage = _Stage(scratch, registry.host, say)
        misses = {"four_wake_ups_us": [2 * two for two in round_trips(MISSES)], **stage.misses()}
        mounting = stage.mounting(runs)
        many = stage.many()
        ahead = stage.readahead()
    medians = {name: statistics.median(values) for name, values in {**misses, **mounting}.items()}
    return {
        "machine": describe_machine(),
        "load_average": os.getloadavg(),
        "runs": runs,
        "measured": {**misses, **mounting},
        "medians": medians,
        "many": many,
        "readahead": ahead,
        "figures": {
            "miss_overhead_p50_us": medians["beyond_us"],
            "mount_ms": medians["mount_ms"],
            "new_windows_ratio": medians["mount_new_windows_ms"] / medians["make_windows_ms"],
            "hundred_mounts_anon_mb": many["anon_mb"],
            "hundred_mounts_cpu_ms": many["idle_cpu_ms"],
        },
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    shown = []
    for name, limit in WANTED.items():
        value = result["figures"][name]
        verdict = "met" if value <= limit else "MISSED"
        shown.append(f"{name:<24} {value:>9.2f}   wanted at most {limit:g}   {verdict}")
    shown += [f"{name:<24} {value:>9.2f}" for name, value in result["medians"].items()]
    shown.append("readahead   present reads that waited   sequential read of what is there")
    shown += [
        f"{row['kib']:>5} KiB   {row['waited']:>11} of {row['reads']:<8}   {row['mb_per_second']:>10.0f} MB/s"
        for row in result["readahead"]
    ]
    return shown


class _Stage:
    """One registry, and a state root of its own for each measurement."""

    def __init__(self, scratch: Path, host: str, say: Say) -> None:
        self._scratch = scratch
        self._host = host
        self._say = say
        self._options = RegistryOptions()

    def misses(self) -> dict[str, list[float]]:
        self._say(f"{MISSES} misses, and {MISSES} fetches alone")
        files = list(incompressible(MISSES, MIB, 1))
        reference = self._publish(files, "misses", "--chunk-size", "1M", "--batch-size", "1M")
        through: list[float] = []
        fetched: list[float] = []
        alone: list[float] = []
        with ExitStack() as undo:
            root = undo.enter_context(self._root("misses"))
            record = self._mounted(root, reference)  # it forks, and a store has threads
            store = undo.enter_context(ChunkStore(self._scratch / "alone"))
            image = open_image(parse_reference(reference), self._options, self._scratch / "alone")
            attachment = store.attach(image.blobs, image.blob_source, background=False)
            windows = [window for meta in image.blobs for window in cut_windows(meta)]

            def read_through(number: int) -> None:
                began = time.perf_counter()
                descriptor = os.open(record.mountpoint / files[number][0], os.O_RDONLY)
                os.pread(descriptor, 1, 0)
                through.append(1e6 * (time.perf_counter() - began))
                os.close(descriptor)
                _await(lambda: _demanded(record)["windows"] == len(through))
                fetched.append(1e6 * _demanded(record)["seconds"] - sum(fetched))

            def fetch(number: int) -> None:
                arrived = threading.Event()
                began = time.perf_counter()
                attachment.when_local(number, windows[number].length, lambda _: arrived.set())
                arrived.wait()
                alone.append(1e6 * (time.perf_counter() - began))

            both = [read_through, fetch]
            numbers = range(min(MISSES, len(windows)))
            for number in random.Random(1).sample(numbers, len(numbers)):
                for one in both:
                    one(number)
                both.reverse()
            attachment.close()
            image.close()
            detach(record.mountpoint, lazy=True)
        return {
            "miss_us": through,
            "its_fetch_us": fetched,
            "beyond_us": [miss - own for miss, own in zip(through, fetched, strict=True)],
            "fetch_alone_us": alone,
        }

    def mounting(self, runs: int) -> dict[str, list[float]]:
        self._say(f"mounts of {NAMES} names, and over {NEW_WINDOWS} new windows")
        names = self._publish(many_names(NAMES, 1024), "names")
        many = repetitive(NEW_WINDOWS, MIB)
        windows = self._publish(many, "windows", "--chunk-size", "1M", "--batch-size", "1M")
        found: dict[str, list[float]] = {"mount_ms": [], "mount_new_windows_ms": [], "make_windows_ms": []}
        with self._root("mounting") as root:
            held = self._mounted(root, names, "held")  # keeper and filler run from here on
            other = self._mounted(root, windows, "other")
            ids = [device.id for device in devices_of(self._localised(root, windows))]
            detach(other.mountpoint, lazy=False)
            for run in range(runs):
                began = time.perf_counter()
                again = self._mounted(root, names, "again")
                found["mount_ms"].append(1e3 * (time.perf_counter() - began))
                detach(again.mountpoint, lazy=False)
                _await(lambda: len((keeper_status(root) or {"mounts": ()})["mounts"]) == 1)
                # Not removed: ext4 is slow to make files right after others were (it avoids their inodes).
                aside = self._scratch / f"aside-{run}"
                aside.mkdir()
                for window_id in ids:
                    (root / SHELVES / window_id[:2] / window_id).rename(aside / window_id)
                began = time.perf_counter()
                new = self._mounted(root, windows, "new")
                found["mount_new_windows_ms"].append(1e3 * (time.perf_counter() - began))
                detach(new.mountpoint, lazy=False)
                alone = self._scratch / f"windows-{run}"
                with ChunkStore(alone) as store:
                    began = time.perf_counter()
                    store.directory.reserve(ids)
                    found["make_windows_ms"].append(1e3 * (time.perf_counter() - began))
            detach(held.mountpoint, lazy=True)
        return found

    def many(self) -> dict[str, float]:
        self._say(f"{MOUNTS} mounts of {IMAGES} images")
        references = [
            self._publish(incompressible(20, MIB, 100 + number), f"many{number}") for number in range(IMAGES)
        ]
        with self._root("many") as root:
            records = [
                self._mounted(root, references[number % IMAGES], f"m{number}") for number in range(MOUNTS)
            ]
            time.sleep(_SETTLING_SECONDS)
            status = keeper_status(root)
            assert status is not None
            pids = [status["pid"], status["filler"]]
            before = sum(map(cpu_seconds, pids))
            time.sleep(IDLE_SECONDS)
            spent = sum(map(cpu_seconds, pids)) - before
            anon = {name: _anon_kib(pid) / 1024 for name, pid in zip(("keeper", "filler"), pids, strict=True)}
            for record in records:
                detach(record.mountpoint, lazy=True)
        return {
            "mounts": MOUNTS,
            "windows": status["windows"],
            "anon_mb": sum(anon.values()),
            "keeper_anon_mb": anon["keeper"],
            "filler_anon_mb": anon["filler"],
            "idle_seconds": IDLE_SECONDS,
            "idle_cpu_ms": round(1000 * spent, 3),
        }

    def readahead(self) -> list[dict[str, float]]:
        self._say("readahead of " + ", ".join(map(str, READAHEADS)) + " KiB")
        reference = self._publish(
            incompressible(_FILES, _FILE_BYTES, 2), "ahead", "--chunk-size", "256K", "--batch-size", "256K"
        )
        names = [f"f{number:05}" for number in range(_FILES)]
        rows = []
        for kib in READAHEADS:
            with self._root(f"ahead-{kib}") as root:
                record = self._mounted(root, reference, kib=kib)
                for name in names:
                    _read(record.mountpoint / name, _LOCAL_BYTES)
                detach(record.mountpoint, lazy=False)
                record = self._mounted(root, reference, kib=kib)  # its page cache is empty
                began = time.perf_counter()
                for name in names:
                    _read(record.mountpoint / name, _LOCAL_BYTES // 2)
                rate = len(names) * (_LOCAL_BYTES // 2) / 1e6 / (time.perf_counter() - began)
                detach(record.mountpoint, lazy=False)
                record = self._mounted(root, reference, kib=kib)
                reads, waited = _walk(root, record.mountpoint, names, self._windows_of(root, reference))
                detach(record.mountpoint, lazy=True)
            rows.append({"kib": kib, "reads": reads, "waited": waited, "mb_per_second": rate})
        return rows

    def _windows_of(self, root: Path, reference: str) -> dict[str, list[tuple[int, str, int]]]:
        """By file: where each of its chunks begins, the window that has it, and that window's length."""
        image = open_image(parse_reference(reference), self._options, root)
        try:
            bootstrap = image.bootstrap
            windows = [cut_windows(meta) for meta in image.blobs]
            top = bootstrap.inode(bootstrap.root_nid)
            found: dict[str, list[tuple[int, str, int]]] = {}
            for number in range(_FILES):
                name = f"f{number:05}"
                nid = bootstrap.lookup(top, name.encode())
                assert nid is not None
                found[name] = []
                for extent in bootstrap.extents(bootstrap.inode(nid)):
                    window = find_window(windows[extent.blob_index], extent.blob_offset)
                    found[name].append((extent.file_offset, window.id, window.length))
            return found
        finally:
            image.close()

    def _publish(self, files: Any, name: str, *options: str) -> str:
        return publish(files, self._scratch, f"{self._host}/{name}:v1", *options)

    @contextmanager
    def _root(self, name: str) -> Iterator[Path]:
        root = self._scratch / f"root-{name}"
        root.mkdir()
        try:
            yield root
        finally:
            end_keeper(root)

    def _mounted(
        self, root: Path, reference: str, name: str = "mountpoint", *, kib: int | None = None
    ) -> MountRecord:
        where = self._scratch / f"{root.name}-{name}"
        where.mkdir(exist_ok=True)
        image = ImageRequest(parse_reference(reference), self._options, background=False)
        request = MountRequest(image, where, root, driver="erofs")
        before = readahead.numbers()
        with HeldSignals() as held:
            record = KernelMount(request, "measured").put(where, held)
        if kib is not None and not readahead.tune_readahead(before, kib):
            raise BenchError("another program mounts at the same time; try again")
        return record

    def _localised(self, root: Path, reference: str) -> Path:
        image = open_image(parse_reference(reference), self._options, root)
        try:
            return kept_image(image, root, WindowDirectory(root))[0]
        finally:
            image.close()


def _demanded(record: MountRecord) -> dict[str, float]:
    """What readers' misses have cost so far; nothing while the image's tables are still being read."""
    progress = kernel_facts(record).progress
    return dict(progress["demand"]) if progress else {"windows": 0, "seconds": 0.0}


def _await(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _read(path: Path, size: int) -> None:
    with path.open("rb", buffering=0) as file:
        for _ in range(0, size, MIB):
            file.read(MIB)


def _walk(
    root: Path, top: Path, names: list[str], windows: Mapping[str, Sequence[tuple[int, str, int]]]
) -> tuple[int, int]:
    """Read all over files that are half here, in steps of a page, some at a time.

    Returns how many reads were of what is here, and how many of those waited for something else.
    """
    source, directory = random.Random(2), WindowDirectory(root)
    reads = waited = 0
    for _ in range(_WALKS):
        name = source.choice(names)
        at = source.randrange((_FILE_BYTES - _STEPS * _PAGE) // _PAGE) * _PAGE
        with (top / name).open("rb", buffering=0) as file:
            for place in range(at, at + _STEPS * _PAGE, _PAGE):
                _, window, length = next(one for one in reversed(windows[name]) if one[0] <= place)
                if directory.size(window) != length:
                    break  # nor what follows it
                before = _events(root)
                os.pread(file.fileno(), _PAGE, place)
                reads += 1
                waited += _events(root) > before
    return reads, waited


def _events(root: Path) -> int:
    status = keeper_status(root)
    assert status is not None
    return int(status["counts"]["events"])


def _anon_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0
