"""Several processes on one store, some killed: fetched once, never a wrong byte, nothing to clean up."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chunk_store import ChunkStore, Limits
from tests.chunk_store.blobs import ScriptedSource
from tests.chunk_store.conftest import OpenStore
from tests.chunk_store.filler import blob_for

CHECKOUT = Path(__file__).parents[2]


def start_filler(root: Path, seed: str, *kill_at: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chunk_store.filler", str(root), seed, *map(str, kill_at)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
    )


def finish(filler: subprocess.Popen[bytes]) -> dict[str, int]:
    output, _ = filler.communicate(timeout=60)
    assert filler.returncode == 0
    report: dict[str, int] = json.loads(output)
    return report


def test_two_processes_on_one_store_fetch_every_byte_once(tmp_path: Path) -> None:
    fillers = [start_filler(tmp_path, "pair") for _ in range(2)]
    reports = [finish(filler) for filler in fillers]
    assert all(report["right"] and report["complete"] for report in reports)
    assert sum(report["sent"] for report in reports) == reports[0]["whole"]


@pytest.mark.parametrize("percent", [0, 3, 20, 50, 99])
def test_what_a_killed_filler_left_is_completed_right_by_the_next(
    tmp_path: Path, open_store: OpenStore, percent: int
) -> None:
    seed = f"kill {percent}"
    blob = blob_for(seed)
    filler = start_filler(tmp_path, seed, blob.unit_bytes * percent // 100)
    filler.communicate(timeout=60)
    assert filler.returncode == -signal.SIGKILL
    right = {str(w.id): blob.plain[w.start : w.start + w.length] for w in blob.windows}
    for path in tmp_path.glob("windows/*/*"):
        assert right[path.name].startswith(path.read_bytes())
    source = ScriptedSource(blob)
    attachment = open_store(tmp_path).attach([blob.meta], source)
    assert attachment.read(0, 0, len(blob.plain)) == blob.plain
    assert attachment.wait_complete(20)
    largest_unit = max(blob.meta.unit(index).compressed_size for index in range(blob.meta.unit_count))
    in_flight = 3 + 1  # ranges of bulk and demand that the kill may have cut in the middle of a unit
    assert source.sent <= blob.unit_bytes * (100 - percent) // 100 + in_flight * largest_unit


def test_a_reader_is_served_what_another_process_has_verified_already(store: ChunkStore) -> None:
    blob = blob_for("prefix of another")
    window = max(blob.windows, key=lambda w: w.length)
    expected = blob.plain[window.start : window.start + window.length]
    path = store.root / "windows" / window.id[:2] / window.id
    path.parent.mkdir(parents=True)
    source = ScriptedSource(blob)
    attachment = store.attach([blob.meta], source, background=False)
    with path.open("wb", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(expected[:200_000])
        assert attachment.read(0, window.start + 100_000, 1000) == expected[100_000:101_000]
        other.write(expected[200_000:])
    assert attachment.read(0, window.start, window.length) == expected
    assert source.asked == []


def test_garbage_that_another_process_holds_is_never_served(open_store: OpenStore) -> None:
    store = open_store(limits=Limits(elsewhere_seconds=0.2))
    blob = blob_for("garbage of another")
    window = blob.windows[0]
    path = store.root / "windows" / window.id[:2] / window.id
    path.parent.mkdir(parents=True)
    attachment = store.attach([blob.meta], ScriptedSource(blob), background=False)
    with path.open("wb", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(os.urandom(200_000))
        assert attachment.read(0, window.start, 1000) == blob.plain[:1000]
