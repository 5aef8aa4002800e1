"""`nopull bench mounts`: what a mount costs, each driver, beside its parts alone where it has some.

- *shared*: memory of one server with one FUSE mount after the other, of images of 37 000 inodes each.
- *erofs*: the kernel's own part of mounting 35 000 names whose windows exist, and of 20 000 windows.
- *ready*: from the command to a mount that answers, of an image that is known here.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from bench.errors import BenchError, RootNeeded
from bench.kernel_images import many_names, publish, repetitive
from bench.machine import describe_machine
from bench.registry_server import RegistryServer
from chunk_store.window_file import WindowDirectory
from erofs_fs.localised_file import devices_of
from erofs_fs.mount import mount
from launch.images.lazy_image import open_image
from launch.mountpoint import detach
from rafs.blob_meta import BlobMeta
from rafs.localise import localise
from rafs.windows import Window, WindowId, cut_windows
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference

INODES: Final = 37_000
SHARED: Final = 8  # mounts, of which two show the same image each
NAMES: Final = 35_000
WINDOWS: Final = 20_000
WANTED: Final[Mapping[str, float]] = {
    "server_rss_mb": 60.0,
    "further_mount_anon_mb": 2.0,
    "further_mount_same_image_anon_mb": 2.0,
    "erofs_35000_names_ms": 50.0,
}

Say = Callable[[str], None]


def measure(runs: int, say: Say) -> dict[str, Any]:
    """All of it.

    Raises:
        RootNeeded, ProgramMissing, BenchError; and what mounting raises.
    """
    if os.geteuid():
        raise RootNeeded("kernel mounts are made by root only; run `nopull bench mounts` as root")
    with ExitStack() as undo:
        # Not where memory is a file system: the kernel mounts files of a disk.
        kept = tempfile.TemporaryDirectory(prefix="nopull-mounts-", dir="/var/tmp")
        scratch = Path(undo.enter_context(kept))
        registry = undo.enter_context(RegistryServer(scratch / "registry"))
        stage = _Stage(scratch, registry.host, say)
        shared = stage.shared()
        names = stage.erofs(many_names(NAMES, 1024), "names", runs)
        windows = stage.erofs(
            repetitive(WINDOWS, 16384), "windows", runs, "--chunk-size", "16K", "--batch-size", "16K",
            by_unit=True,
        )  # fmt: skip
    return {
        "what": "mounts",
        "machine": describe_machine(),
        "load_average": os.getloadavg(),
        "runs": runs,
        "measured": {"shared": shared, "names": names, "windows": windows},
        "figures": {
            "server_rss_mb": shared[0]["rss_mb"],
            "further_mount_anon_mb": _growth(shared[: SHARED // 2]),
            "further_mount_same_image_anon_mb": _growth(shared[SHARED // 2 - 1 :]),
            "erofs_35000_names_ms": statistics.median(names["ms"]),
        },
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """The result for people."""
    shown = []
    for name, limit in WANTED.items():
        value = result["figures"][name]
        shown.append(f"{name:<33} {value:>9.2f}   wanted at most {limit:g}   {_verdict(value, limit)}")
    for kind in ("names", "windows"):
        found = result["measured"][kind]
        shown.append(
            f"kernel mount of {kind:<8} {statistics.median(found['ms']):>9.2f} ms"
            f"   {found['windows']} windows, {found['image_mb']:.1f} MB of names"
            f"; localised in {found['localise_ms']:.0f} ms, files made in {found['make_files_ms']:.0f} ms"
        )
    return shown


def _growth(memory: list[dict[str, float]]) -> float:
    return (memory[-1]["anon_mb"] - memory[0]["anon_mb"]) / (len(memory) - 1)


def _verdict(value: float, limit: float) -> str:
    return "met" if value <= limit else "MISSED"


class _Stage:
    def __init__(self, scratch: Path, host: str, say: Say) -> None:
        self._scratch = scratch
        self._host = host
        self._say = say

    def shared(self) -> list[dict[str, float]]:
        """Memory of the server after each mount, every name of which was looked at."""
        self._say(f"{SHARED} mounts of {INODES} inodes by one server")
        images = [
            publish(_small_files(number), self._scratch, f"{self._host}/shared{number}:v1")
            for number in range(SHARED // 2)
        ]
        root, found = self._scratch / "root-shared", []
        with self._unmounted(root):
            for number in range(SHARED):
                where = self._scratch / f"shared-{number}"
                where.mkdir()
                command = ["mount", images[number % len(images)], str(where), "--shared", "--no-background"]
                _nopull(root, *command)
                for directory in os.scandir(where):
                    for entry in os.scandir(directory.path):
                        entry.stat(follow_symlinks=False)
                found.append(_memory(_server(root)))
        return found

    def erofs(self, files: Any, name: str, runs: int, *options: str, by_unit: bool = False) -> dict[str, Any]:
        """Milliseconds of the kernel's part, with files for all windows; *by_unit*: each unit is one."""
        self._say(f"kernel mounts of {name}")
        reference = publish(files, self._scratch, f"{self._host}/{name}:v1", *options)
        root, where = self._scratch / f"root-{name}", self._scratch / f"at-{name}"
        root.mkdir()
        where.mkdir()
        image = open_image(parse_reference(reference), RegistryOptions(), root)
        image.close()
        directory, path = WindowDirectory(root), root / "localised"
        cut = [_units(meta) if by_unit else cut_windows(meta) for meta in image.blobs]
        began = time.perf_counter()
        path.write_bytes(localise(image.bootstrap, image.blobs, cut))
        localised = 1e3 * (time.perf_counter() - began)
        began = time.perf_counter()
        directory.reserve(device.id for device in devices_of(path))
        reserved = 1e3 * (time.perf_counter() - began)
        window_ids = [device.id for device in devices_of(path)]
        hold = root / "hold"
        hold.touch()
        taken = []
        for _ in range(runs):
            began = time.perf_counter()
            mount(path, directory.path, window_ids, hold, where)
            taken.append(1e3 * (time.perf_counter() - began))
            detach(where, lazy=False)
        directory.close()
        return {
            "ms": taken,
            "windows": len(window_ids),
            "image_mb": path.stat().st_size / 1e6,
            "localise_ms": localised,
            "make_files_ms": reserved,
        }

    @contextmanager
    def _unmounted(self, root: Path) -> Iterator[None]:
        try:
            yield
        finally:
            for where in self._scratch.glob("shared-*"):
                subprocess.run(["umount", "-l", where], stderr=subprocess.DEVNULL, check=False)


def _units(meta: BlobMeta) -> list[Window]:
    """Each unit as a window, so that there are many of them without as many megabytes."""
    cut = []
    for number in range(meta.unit_count):
        unit = meta.unit(number)
        behind = unit.first_chunk + unit.chunk_count
        end = meta.chunk(behind).offset if behind < meta.chunk_count else meta.uncompressed_size
        start = meta.chunk(unit.first_chunk).offset
        cut.append(
            Window(
                id=WindowId(blake3(b"%d" % number).hexdigest()),
                index=number,
                first_unit=number,
                unit_count=1,
                first_chunk=unit.first_chunk,
                chunk_count=unit.chunk_count,
                start=start,
                length=end - start,
                compressed_start=unit.compressed_offset,
                compressed_end=unit.compressed_offset + unit.compressed_size,
            )
        )
    return cut


def _small_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Files as modules of programs are: small, all different."""
    source = random.Random(seed)
    for path, _ in many_names(INODES, 8):
        yield path, source.randbytes(source.randrange(50, 900)) + bytes(source.randrange(900))


def _nopull(root: Path, *words: str) -> None:
    command = [sys.executable, "-P", "-m", "nopull", *words, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"mounting: {done.stderr.strip()}")


def _server(root: Path) -> int:
    from launch import mounts

    return mounts.records(root)[0].server


def _memory(pid: int) -> dict[str, float]:
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon", "RssFile"):
            found[name] = int(value.split()[0]) / 1024
    return {"rss_mb": found["VmRSS"], "anon_mb": found["RssAnon"], "file_mb": found["RssFile"]}
