"""Programs that read, and how long they take; serves `read`."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.kernel_images import MIB, many_names
from launch.images.lazy_image import LazyImage
from rafs.windows import cut_windows, find_window

READERS: Final = 64
NAMES: Final = 20_000


def half_compressible(count: int, size: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """*count* files of *size* bytes that compress to about half, as programs and libraries do."""
    source = random.Random(seed)
    for number in range(count):
        pieces = (source.randbytes(1024) + bytes(1024) for _ in range(-(-size // 2048)))
        yield f"f{number:05}", b"".join(pieces)[:size]


def last_places(image: LazyImage) -> dict[str, tuple[str, int]]:
    """By the id of each window, the last place in it that a file has: path, and offset in that file."""
    cut = [cut_windows(meta) for meta in image.blobs]
    found: dict[str, tuple[int, str, int]] = {}
    for path, inode in image.bootstrap.walk():
        if not stat.S_ISREG(inode.mode):
            continue
        for extent in image.bootstrap.extents(inode):
            window = find_window(cut[extent.blob_index], extent.blob_offset)
            place = (extent.blob_offset, os.fsdecode(path).lstrip("/"), extent.file_offset + extent.size - 1)
            found[window.id] = max(place, found.get(window.id, place))
    return {window_id: (path, offset) for window_id, (_, path, offset) in found.items()}


def time_byte(path: Path, offset: int) -> float:
    """Seconds of reading one byte."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        began = time.perf_counter()
        os.pread(descriptor, 1, offset)
        return time.perf_counter() - began
    finally:
        os.close(descriptor)


def time_readers(files: list[Path]) -> float:
    """Seconds in which 64 threads of a process of its own read all files, each its own."""
    program = "import sys; from bench.read_times import read_in_threads; read_in_threads(sys.argv[1:])"
    command = [sys.executable, "-P", "-c", program, *map(str, files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def read_in_threads(files: list[str]) -> None:
    """Print the seconds in which `READERS` threads read *files*."""
    together = threading.Barrier(READERS + 1)

    def read(number: int) -> None:
        buffer = bytearray(MIB)  # one for all reads: the kernel clearing new memory is not the mount's cost
        together.wait()
        for path in files[number::READERS]:
            descriptor = os.open(path, os.O_RDONLY)
            while os.readv(descriptor, [buffer]):
                pass
            os.close(descriptor)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    together.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    print(time.perf_counter() - began)


def forget_pages(path: Path) -> None:
    """Have the file at *path* read from its disk next time."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def time_whole(path: Path) -> float:
    buffer = bytearray(MIB)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        began = time.perf_counter()
        while os.readv(descriptor, [buffer]):
            pass
        return time.perf_counter() - began
    finally:
        os.close(descriptor)


def time_walk(top: Path) -> float:
    """Names per second of a program that lists every directory and asks for every name's attributes."""
    began, count = time.perf_counter(), 0
    for directory in os.scandir(top):
        count += 1
        for entry in os.scandir(directory.path):
            entry.stat(follow_symlinks=False)
            count += 1
    return count / (time.perf_counter() - began)


def time_by_name(top: Path) -> float:
    """The same for names that are known already, and were never listed."""
    names = [str(top / path) for path, _ in many_names(NAMES, 8)]
    began = time.perf_counter()
    for name in names:
        os.lstat(name)
    return len(names) / (time.perf_counter() - began)


def read_all(top: Path) -> None:
    for path in top.rglob("*"):
        if path.is_file():
            path.read_bytes()
