"""`nopull bench registry`: the registry client against bare urllib3 and curl, on one server, in turns.

Measures small ranges (processor time, and rate from 16 threads), a large verified blob (time, memory) and
round trips. Starts a registry of its own on loopback; what it prints are medians, their quotients, and how
much both scatter from run to run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from bench.errors import BenchError, ProgramMissing
from bench.machine import describe_machine
from bench.registry_server import RegistryServer
from registry_client import open_destination
from registry_client.digest import Digest
from registry_client.manifest import Descriptor, MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.registry_source import RegistrySource

SMALL = 4096
THREADS = 16
REQUESTS = 400
"""Small ranges of each kind in one run."""
BLOB_SIZE = 256 * 1000 * 1000
_PIECE = 1 << 20
_NAME = "bench/blob:v1"
WANTED: dict[str, tuple[str, float]] = {
    "small_range_cpu": ("at most", 1.4),
    "small_range_rate": ("at least", 0.8),
    "large_blob_rate": ("at least", 0.9),
    "large_blob_extra_mb": ("at most", 32.0),
    "round_trips_cold": ("at most", 4.0),
    "round_trips_warm": ("at most", 1.0),
}


def measure(runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it, *runs* times in turns.

    Raises:
        ProgramMissing: docker-registry or curl is not installed.
    """
    if shutil.which("curl") is None:
        raise ProgramMissing("the comparison needs curl; install the package curl")
    with (
        tempfile.TemporaryDirectory(prefix="nopull-bench-") as directory,
        RegistryServer(Path(directory)) as server,
    ):
        host = f"{server.address}:{server.port}"
        say(f"publishing {BLOB_SIZE // 1_000_000} MB to docker-registry at {host}")
        layer, manifest = _publish(host)
        return _compare(host, layer, manifest, runs, say)


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    shown = [f"{'':<20} {'median':>8} {'lowest':>9} {'highest':>9}   of {result['runs']} runs"]
    for name, values in result["measured"].items():
        shown.append(f"{name:<20} {_row(statistics.median(values), values)}")
    for name, (bound, limit) in WANTED.items():
        value = result["quotients"][name]
        met = value <= limit if bound == "at most" else value >= limit
        verdict = f"   wanted {bound} {limit:g}   {'met' if met else 'MISSED'}"
        shown.append(f"{name:<20} {_row(value, result['scatter'][name])}{verdict}")
    return shown


_SHOWN = (
    ("range of 4 KiB, one warm connection, CPU of the client in µs", "urllib3_cpu_us", "nopull_cpu_us", 0),
    ("ranges of 4 KiB from 16 threads, per second", "urllib3_rate_16", "nopull_rate_16", 0),
    ("blob of 256 MB, digest verified, in seconds", "curl_seconds", "nopull_seconds", 2),
)


def markdown(result: Mapping[str, Any]) -> list[str]:
    """The result as the lines of a table for the documentation: medians, and in brackets the extremes."""
    rows = ["| | theirs | nopull | quotient | wanted |", "|---|---|---|---|---|"]
    for (what, theirs, ours, digits), name in zip(_SHOWN, WANTED, strict=False):
        cells = [_spread(result["measured"][one], digits) for one in (theirs, ours)]
        cells.append(f"**{result['quotients'][name]:.2f}** ({_extremes(result['scatter'][name], 2)})")
        rows.append(f"| {what} | {' | '.join(cells)} | {_wanted(name)} |")
    for what, name in (
        ("memory beyond what the process had before that blob, in MB", "large_blob_extra_mb"),
        ("round trips from nothing to the first byte, no accounts", "round_trips_cold"),
        ("round trips of a range when digest, token and URL are known", "round_trips_warm"),
    ):
        rows.append(f"| {what} | | {result['quotients'][name]:.3g} | | {_wanted(name)} |")
    return rows


def _wanted(name: str) -> str:
    bound, limit = WANTED[name]
    return f"{'≤' if bound == 'at most' else '≥'} {limit:g}"


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({_extremes(values, digits)})"


def _extremes(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}"


def _row(value: float, values: Sequence[float]) -> str:
    digits = 0 if value >= 100 else 2
    return f"{value:>8.{digits}f} {min(values):>9.{digits}f} {max(values):>9.{digits}f}"


def _compare(
    host: str, layer: Descriptor, manifest: str, runs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    measured: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        measured.setdefault(name, []).append(value)

    source = RegistrySource(parse_reference(f"{host}/{_NAME}"), RegistryOptions())
    source.manifest(source.resolve())
    list(source.read_at(layer, 0, SMALL))
    cold = source.requests
    list(source.read_at(layer, SMALL, SMALL))
    warm = source.requests - cold
    bare = _BareUrllib3(host, layer)
    for run in range(runs):
        say(f"run {run + 1} of {runs}")
        pair = [("urllib3", bare.read), ("nopull", _reader(source, layer))]
        if run % 2:
            pair.reverse()  # whatever else the machine does must not always meet the same of the two
        for name, read in pair:
            note(f"{name}_cpu_us", _cpu_of_one(read) * 1e6)
        for name, read in pair:
            note(f"{name}_rate_16", _rate_of_many(read))
        for name, _ in pair:
            if name == "urllib3":
                note("curl_seconds", _curl(host, layer))
            else:
                seconds, extra = _whole_blob(host, layer)
                note("nopull_seconds", seconds)
                note("nopull_extra_mb", extra)
    bare.close()
    source.close()
    medians = {name: statistics.median(values) for name, values in measured.items()}
    each = [_quotients({name: values[run] for name, values in measured.items()}) for run in range(runs)]
    trips = {"round_trips_cold": float(cold), "round_trips_warm": float(warm)}
    return {
        "machine": describe_machine(),
        "runs": runs,
        "conditions": {
            "server": "docker-registry on loopback, plain HTTP, no accounts",
            "small_range_bytes": SMALL,
            "small_ranges_per_run": REQUESTS,
            "threads": THREADS,
            "blob_bytes": layer.size,
            "load_average": os.getloadavg(),
            "manifest": manifest,
        },
        "measured": measured,
        "medians": medians,
        "quotients": {**_quotients(medians), **trips},
        "scatter": {
            **{name: [one[name] for one in each] for name in each[0]},
            **{name: [value] for name, value in trips.items()},
        },
    }


def _quotients(values: Mapping[str, float]) -> dict[str, float]:
    return {
        "small_range_cpu": values["nopull_cpu_us"] / values["urllib3_cpu_us"],
        "small_range_rate": values["nopull_rate_16"] / values["urllib3_rate_16"],
        "large_blob_rate": values["curl_seconds"] / values["nopull_seconds"],
        "large_blob_extra_mb": values["nopull_extra_mb"],
    }


class _BareUrllib3:
    """What anybody would write: a pool, a Range header, the body."""

    def __init__(self, host: str, layer: Descriptor) -> None:
        import urllib3

        address, _, port = host.rpartition(":")
        self._pool = urllib3.HTTPConnectionPool(address, int(port), maxsize=THREADS, block=True)
        self._path = f"/v2/{_NAME.partition(':')[0]}/blobs/{layer.digest}"

    def read(self, offset: int) -> None:
        answer = self._pool.request(
            "GET",
            self._path,
            headers={"Range": f"bytes={offset}-{offset + SMALL - 1}", "Accept-Encoding": "identity"},
            preload_content=False,
            redirect=False,
            retries=False,
        )
        if answer.status != 206 or len(answer.read(decode_content=False)) != SMALL:
            raise BenchError(f"the registry answered a range with status {answer.status}")
        answer.release_conn()

    def close(self) -> None:
        self._pool.close()


def _reader(source: RegistrySource, layer: Descriptor) -> Callable[[int], None]:
    def read(offset: int) -> None:
        for _ in source.read_at(layer, offset, SMALL):
            pass

    return read


def _cpu_of_one(read: Callable[[int], None]) -> float:
    """Processor seconds per request of this process, one thread, one warm connection."""
    read(0)
    before = time.process_time()
    for number in range(REQUESTS):
        read(number * SMALL)
    return (time.process_time() - before) / REQUESTS


def _rate_of_many(read: Callable[[int], None]) -> float:
    """Requests per second from 16 threads."""
    each = REQUESTS // 4
    together = threading.Barrier(THREADS + 1)

    def run(first: int) -> None:
        read(first * SMALL)
        together.wait()
        for number in range(each):
            read((first + number) * SMALL)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for one in threads:
        one.start()
    together.wait()
    started = time.perf_counter()
    for one in threads:
        one.join()
    return THREADS * each / (time.perf_counter() - started)


def _curl(host: str, layer: Descriptor) -> float:
    url = f"http://{host}/v2/{_NAME.partition(':')[0]}/blobs/{layer.digest}"
    started = time.perf_counter()
    done = subprocess.run(["sh", "-c", f"curl -fsS '{url}' | sha256sum"], capture_output=True, check=True)
    seconds = time.perf_counter() - started
    if done.stdout.split()[0].decode() != layer.digest.partition(":")[2]:
        raise BenchError("curl received other bytes")
    return seconds


def _whole_blob(host: str, layer: Descriptor) -> tuple[float, float]:
    """Seconds to read and verify it, and how many MB the process grew by, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.registry", host, layer.digest, str(layer.size)],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, extra = json.loads(done.stdout)
    return seconds, extra


def _publish(host: str) -> tuple[Descriptor, str]:
    with tempfile.TemporaryFile() as file:
        digest = hashlib.sha256()
        for _ in range(0, BLOB_SIZE, _PIECE):
            piece = os.urandom(_PIECE)
            digest.update(piece)
            file.write(piece)
        layer = Descriptor(MediaType.OCI_LAYER, Digest(f"sha256:{digest.hexdigest()}"), file.tell())
        destination = open_destination(parse_reference(f"{host}/{_NAME}"), RegistryOptions())
        try:

            def reopened() -> BinaryIO:
                return Path(f"/proc/self/fd/{file.fileno()}").open("rb")

            destination.put_blob(layer, reopened)
            config = Descriptor(
                MediaType.OCI_CONFIG, Digest(f"sha256:{hashlib.sha256(b'{}').hexdigest()}"), 2
            )
            destination.put_blob(config, lambda: io.BytesIO(b"{}"))
            document = {
                "schemaVersion": 2,
                "mediaType": MediaType.OCI_MANIFEST,
                "config": config.to_json(),
                "layers": [layer.to_json()],
            }
            stored = destination.put_manifest(json.dumps(document).encode(), MediaType.OCI_MANIFEST, tag="v1")
        finally:
            destination.close()
    return layer, stored.digest


def _read_here(host: str, digest: str, size: int) -> None:
    """Read one blob in this process and print the seconds and the MB it took."""
    source = RegistrySource(parse_reference(f"{host}/{_NAME}"), RegistryOptions())
    layer = Descriptor(MediaType.OCI_LAYER, Digest(digest), size)
    before = _peak_kilobytes()
    started = time.perf_counter()
    for _ in source.read_blob(layer):
        pass
    seconds = time.perf_counter() - started
    source.close()
    print(json.dumps([seconds, (_peak_kilobytes() - before) * 1024 / 1e6]))


def _peak_kilobytes() -> int:
    """The most memory this process ever had; rusage would count its parent's from before the exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


if __name__ == "__main__":
    _read_here(sys.argv[1], sys.argv[2], int(sys.argv[3]))
