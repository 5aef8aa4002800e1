"""What can be seen of a mount from outside: metrics, the order of first reads, log lines for machines."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from launch import mounts
from launch.images.lazy_image import open_image
from launch.umount import unmount
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch.published import publish
from tests.support.command import COMMAND, nopull
from tests.support.images import image_of
from tests.support.trees import directory, file, hardlink, tree
from tests.system.busybox_image import BUSYBOX, write_layout

pytestmark = pytest.mark.system

LARGE = os.urandom(5_000_000)
IMAGE = image_of(
    tree(
        file(b"large", LARGE),
        directory(b"d", file(b"one", b"1"), file(b"two\xff", b"22"), file(b"line\nbreak", b"333")),
        file(b"other", b"blob" * 1000, blob=1),
        hardlink(b"second name", b"/d/one"),
    )
)


@dataclass
class Place:
    """Where tests mount; the image lies in a layout beside it."""

    base: Path
    reference: str

    @property
    def mountpoint(self) -> Path:
        return self.base / "mountpoint"

    @property
    def root(self) -> Path:
        return self.base / "root"

    def mount(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words: list[str | Path] = [*options, self.reference, self.mountpoint, "--root", self.root]
        return nopull("mount", "--driver", "fuse", "--no-background", *words, environment=environment)

    def scrape(self) -> dict[str, float]:
        """Samples by name with labels."""
        address = mounts.records(self.root)[0].metrics
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in samples}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, publish(IMAGE, f"oci:{tmp_path / 'layout'}:v1", tmp_path).reference)
    made.mountpoint.mkdir()
    try:
        yield made
    finally:
        for record in mounts.records(made.root):
            unmount(record.mountpoint, made.root, lazy=True)


def test_metrics_follow_what_is_read(place: Place) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    done = place.mount("--metrics-address", "127.0.0.1:0")
    assert done.returncode == 0, done.stderr
    before = place.scrape()
    (mounted,) = (name for name in before if name.startswith("nopull_mount{"))
    assert f'mountpoint="{place.mountpoint}"' in mounted and 'driver="fuse"' in mounted
    assert before["nopull_windows_present"] == 0 == before["nopull_read_seconds_count"]
    assert (place.mountpoint / "large").read_bytes() == LARGE
    assert (place.mountpoint / "other").read_bytes() == b"blob" * 1000
    # Readers are answered as soon as their bytes are verified, a moment before the window counts.
    deadline = time.monotonic() + 10
    after = place.scrape()
    while after["nopull_windows_present"] < after["nopull_windows"] and time.monotonic() < deadline:
        after = place.scrape()
    assert after["nopull_windows_present"] == after["nopull_windows"] == before["nopull_windows"] > 2
    assert after['nopull_fetched_windows_total{class="demand"}'] == after["nopull_windows"]
    assert after['nopull_requests_total{class="background"}'] == 0
    assert after['nopull_received_bytes_total{class="demand"}'] > len(LARGE)
    assert after["nopull_image_bytes_touched"] >= len(LARGE)
    assert after["nopull_read_seconds_count"] == after['nopull_read_seconds_bucket{le="+Inf"}'] >= 38
    assert after["nopull_reader_wait_seconds_sum"] > 0 == after["nopull_read_errors_total"]
    assert after["nopull_reader_wait_seconds_count"] >= after["nopull_windows"]
    windows = after["nopull_windows"]
    assert after['nopull_fill_seconds_bucket{class="demand",le="+Inf"}'] == windows
    assert after['nopull_fill_seconds_count{class="demand"}'] == windows
    assert after['nopull_fill_seconds_count{class="background"}'] == 0
    assert after['nopull_fuse_requests_total{request="read"}'] == after["nopull_read_seconds_count"]
    assert after['nopull_fuse_requests_total{request="init"}'] == 1
    assert after["nopull_server_resident_bytes"] > 1 << 20


def test_metrics_name_a_place_that_is_not_utf8_and_an_address_that_is_no_url_by_itself(
    place: Place,
) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    unusual = replace(place, base=place.base / os.fsdecode(b"base\xff"))
    unusual.mountpoint.mkdir(parents=True)
    try:
        done = unusual.mount("--metrics-address", "[::1]:0")
        assert done.returncode == 0, done.stderr
        (mounted,) = (name for name in unusual.scrape() if name.startswith("nopull_mount{"))
        assert r"/base\\xff/mountpoint" in mounted
        assert "http://[::1]:" in nopull("explain", unusual.mountpoint, "--root", unusual.root).stdout
    finally:
        unmount(unusual.mountpoint, unusual.root, lazy=True)


def test_what_made_room_is_not_told_to_be_local(place: Place) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    assert nopull("pull", "--root", place.root, place.reference).returncode == 0
    assert place.mount("--metrics-address", "127.0.0.1:0").returncode == 0
    before = place.scrape()
    assert before["nopull_windows_present"] == before["nopull_windows"]
    assert nopull("cache", "gc", "--root", place.root, "--size", "1").returncode == 0
    time.sleep(1.0)  # so old may what is told be
    after = place.scrape()
    assert after["nopull_windows_present"] == 0 == after["nopull_image_bytes_present"]
    assert after["nopull_windows_evicted"] == after["nopull_windows"]
    progress = json.loads(nopull("ps", "--json", "--root", place.root).stdout)[0]["progress"]
    assert not progress["complete"] and progress["windows_present"] == 0
    assert (place.mountpoint / "large").read_bytes() == LARGE


def test_an_address_that_is_taken_is_said_and_nothing_is_mounted(place: Place) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = place.mount("--metrics-address", address)
    assert done.returncode == 7 and f"{address}: Address already in use" in done.stderr
    assert mounts.records(place.root) == [] and list(place.mountpoint.iterdir()) == []
    assert place.mount("--metrics-address", "9100").returncode == 2


def test_without_the_package_the_extra_is_named(place: Place) -> None:
    hidden = place.base / "hidden"
    hidden.mkdir()
    (hidden / "prometheus_client.py").write_text("raise ImportError('hidden by the test')")
    done = place.mount("--metrics-address", "127.0.0.1:0", PYTHONPATH=str(hidden))
    assert done.returncode == 7 and "nopull[metrics]" in done.stderr
    assert place.mount(PYTHONPATH=str(hidden)).returncode == 0


def test_first_reads_are_listed_in_order_each_file_once(place: Place) -> None:
    assert place.mount().returncode == 0
    base = os.fsencode(place.mountpoint)
    for name in (b"d/two\xff", b"other", b"second name", b"d/line\nbreak", b"other", b"d/one"):
        with open(base + b"/" + name, "rb") as reading:  # noqa: PTH123 - names are bytes
            reading.read()
    (place.mountpoint / "large").stat()
    text = nopull("explain", "--trace", place.mountpoint, "--root", place.root)
    wanted = ["/d/two\udcff", "/other", "/second name"]
    assert text.stdout.splitlines() == wanted
    said = json.loads(nopull("explain", "--trace", "--json", place.mountpoint, "--root", place.root).stdout)
    assert [one["path"] for one in said["files"]] == [*wanted, "/d/line\nbreak"]
    assert [one["size"] for one in said["files"]] == [2, 4000, 1, 3]
    seconds = [one["seconds"] for one in said["files"]]
    assert seconds == sorted(seconds) and not said["truncated"]


def test_log_lines_are_objects_when_asked_for(place: Place) -> None:
    assert place.mount("--log-format", "json").returncode == 0
    record = mounts.records(place.root)[0]
    for blob in (place.base / "layout/blobs/sha256").iterdir():
        if blob.stat().st_size > 1_000_000:
            blob.write_bytes(b"\0" * blob.stat().st_size)
    with pytest.raises(OSError, match="Input/output"):
        (place.mountpoint / "large").read_bytes()
    lines = [json.loads(line) for line in record.log.read_text().splitlines()]
    (failed,) = (line for line in lines if line["logger"] == "nopull.fuse")
    assert (failed["path"], failed["level"], failed["mount"]) == ("/large", "error", record.id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", failed["time"])
    assert "read /large: Chunk" in failed["message"]


def test_a_trace_is_a_list_to_prefetch_from(place: Place) -> None:
    if not BUSYBOX.exists():
        pytest.skip("needs the package busybox-static")
    write_layout(place.base / "plain", {"Cmd": ["/bin/true"]})
    plain, lazy = f"oci:{place.base}/plain:v1", f"oci:{place.base}/lazy:v1"
    assert nopull("convert", plain, lazy).returncode == 0
    where: list[str | Path] = [place.mountpoint, "--root", place.root]
    assert nopull("mount", "--driver", "fuse", lazy, *where).returncode == 0
    for name in ("opt/plain", "etc/group"):
        (place.mountpoint / name).read_bytes()
    trace = place.base / "trace"
    trace.write_text(nopull("explain", "--trace", place.mountpoint, "--root", place.root).stdout)
    assert trace.read_text() == "/opt/plain\n/etc/group\n"
    again = f"oci:{place.base}/again:v1"
    done = nopull("convert", "--prefetch", f"@{trace}", plain, again)
    assert done.returncode == 0, done.stderr
    unmount(place.mountpoint, place.root)
    opened = open_image(parse_reference(again), RegistryOptions(), place.root)
    opened.close()
    names = {inode.nid: path for path, inode in opened.bootstrap.walk()}
    assert [names[nid] for nid in opened.bootstrap.prefetch_nids()][:2] == [b"/opt/plain", b"/etc/group"]


def test_a_container_is_watched_as_a_mount_is(place: Place) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    if not BUSYBOX.exists():
        pytest.skip("needs the package busybox-static")
    write_layout(place.base / "plain", {"Cmd": ["/bin/sh", "-c", "echo ready; read line"]})
    plain, lazy = f"oci:{place.base}/plain:v1", f"oci:{place.base}/lazy:v1"
    assert nopull("convert", plain, lazy).returncode == 0
    words = ["run", "-i", "--root", str(place.root), "--metrics-address", "127.0.0.1:0", lazy]
    command = [*COMMAND, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as container:
        assert container.stdout is not None and container.stdout.readline() == "ready\n"
        samples = place.scrape()
        assert samples["nopull_read_seconds_count"] > 0 < samples["nopull_windows_present"]
        container.communicate("\n", timeout=60)
    assert container.returncode == 0
