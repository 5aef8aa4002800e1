"""Images for `nopull bench kernel`, made and converted on the spot: many windows, many names, many images."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from bench.errors import BenchError
from bench.oci_directory import write_oci_directory

MIB = 1 << 20
_NAMES_PER_DIRECTORY = 350


def incompressible(count: int, size: int, seed: int) -> Iterable[tuple[str, bytes]]:
    """*count* files of *size* random bytes."""
    source = random.Random(seed)
    return ((f"f{number:05}", source.randbytes(size)) for number in range(count))


def repetitive(count: int, size: int) -> Iterable[tuple[str, bytes]]:
    """*count* files of *size* bytes that compress to nearly nothing, no two of them alike."""
    return ((f"f{number:05}", number.to_bytes(16, "little") * (size // 16)) for number in range(count))


def many_names(count: int, size: int) -> Iterable[tuple[str, bytes]]:
    """*count* small files in directories as large as those of real images."""
    for number in range(count):
        place = f"d{number // _NAMES_PER_DIRECTORY:03}/f{number:05}"
        yield place, number.to_bytes(8, "little") * (size // 8)


def publish(
    files: Iterable[tuple[str, bytes]], scratch: Path, reference: str, *options: str
) -> str:
    """Convert an image of *files* to *reference*, which is returned.

    Raises:
        BenchError: the conversion failed.
    """
    name = reference.rpartition("/")[2].replace(":", "-")
    layer, layout = scratch / f"{name}.tar", scratch / name
    with tarfile.open(layer, "w") as archive:
        for path, content in files:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    write_oci_directory(
        layout, name="v1", layers=[layer], config={}, architecture="amd64",
        created="1970-01-01T00:00:00Z", compress=False,
    )  # fmt: skip
    layer.unlink()
    command = [sys.executable, "-P", "-m", "nopull", "convert", *options, f"oci:{layout}:v1", reference]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"converting an image: {done.stderr.strip()}")
    return reference
