"""`./dev demo` runs the whole path on an image of the user's, and leaves nothing however it ends."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from bench.containerd import mounts_below
from bench.link import NETNS
from bench.oci_directory import write_oci_directory
from bench.result import FULL_PULL, NOPULL, NOPULL_FUSE, read_result
from bench.stage import SCRATCH, SCRATCH_PARENT
from registry_client.platform import host_platform

BUSYBOX = shutil.which("busybox")
WAITS = "echo READY; cat"
NEVER_ENDS = "trap '' TERM; while :; do sleep 1; done"

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]


def busybox_image(directory: Path, script: str) -> str:
    """Make an image of busybox, a thousand small files and the script; return its reference."""
    assert BUSYBOX is not None
    layers = [directory / "base.tar", directory / "files.tar"]
    with tarfile.open(layers[0], "w") as tar:
        tar.add(Path(BUSYBOX).resolve(), "bin/busybox")
        for name in ("sh", "cat", "echo", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    with tarfile.open(layers[1], "w") as tar:
        for number in range(1000):
            member = tarfile.TarInfo(f"files/{number}")
            member.size = 1000
            tar.addfile(member, io.BytesIO(f"{number:10}".encode() * 100))
    write_oci_directory(
        directory / "image",
        name="busybox",
        layers=layers,
        config={"Cmd": ["/bin/sh", "-c", script], "Env": ["PATH=/bin"]},
        architecture=host_platform().architecture,
        created="2023-11-14T22:13:20Z",
    )
    return f"oci:{directory / 'image'}:busybox"


def demo(image: str, *options: str) -> subprocess.Popen[str]:
    """Start the demo on an image, once over each link."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.demo", "--image", image, "--runs", "1", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def leftovers(owner: int) -> list[str]:
    """Return everything of a demo that is still there: files, mounts, namespaces, processes."""
    scratch = [str(path) for path in SCRATCH_PARENT.glob(f"{SCRATCH}{owner}-*")]
    prefix = f"{SCRATCH_PARENT}/{SCRATCH}{owner}-"
    mounts = [str(path) for path in mounts_below(Path("/")) if str(path).startswith(prefix)]
    namespaces = [entry.name for entry in NETNS.iterdir() if entry.name.startswith(f"nopull-{owner}-")]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/nopull-{owner}")]
    return scratch + mounts + namespaces + groups + related_commands(prefix, f"nopull-{owner}-")


def related_commands(*marks: str) -> list[str]:
    """Return the command lines of living processes that contain one of the marks."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(mark in command for mark in marks):
                found.append(command)
    return found


def test_demo_compares_both_ways_over_both_links_and_leaves_nothing(tmp_path: Path) -> None:
    image = busybox_image(tmp_path, WAITS)
    files = ["--json", str(tmp_path / "result.json"), "--plot", str(tmp_path / "plot.png")]
    running = demo(image, "--ready", "^READY$", *files)
    told, _ = running.communicate(timeout=240)
    assert running.returncode == 0, told
    result = read_result(tmp_path / "result.json")
    assert {(run.link, run.contestant) for run in result.runs} == {
        (link, contestant)
        for link in ("loopback", "20ms-200mbit")
        for contestant in (NOPULL, NOPULL_FUSE, FULL_PULL)
    }
    for run in result.runs:
        assert run.seconds > 0
        assert run.logged_requests > 0
        assert (run.counters is not None) == (run.contestant != FULL_PULL)
    assert all(run.wire_bytes for run in result.runs if run.link == "20ms-200mbit")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["machine"]["cores"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "ready s" in told
    assert leftovers(running.pid) == []


def test_demo_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    running = demo(busybox_image(tmp_path, "echo broken >&2; exit 4"), "--ready", "^READY$")
    told, _ = running.communicate(timeout=240)
    assert running.returncode == 1
    assert "ended with 4 before it was ready: broken" in told.splitlines()[-1]
    assert leftovers(running.pid) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_demo_that_is_interrupted_while_a_container_runs_leaves_nothing(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    running = demo(busybox_image(tmp_path, NEVER_ENDS), "--ready", "^READY$")
    await_container(running)
    running.send_signal(number)
    told, _ = running.communicate(timeout=120)
    assert running.returncode == status, told
    assert leftovers(running.pid) == []


def await_container(running: subprocess.Popen[str]) -> None:
    """Wait until the demo's first container runs its script."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()[0]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _is_script_below(entry, running.pid):
                return
        time.sleep(0.1)
    running.kill()
    raise AssertionError("no container within two minutes")


def _is_script_below(entry: Path, ancestor: int) -> bool:
    try:
        if NEVER_ENDS.encode() not in (entry / "cmdline").read_bytes().split(b"\0"):
            return False
        # Another run's container may be there as well: ours is the one whose network is our link's.
        return _network_of(int(entry.name)) in _own_networks(ancestor)
    except OSError:
        return False


def _network_of(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def _own_networks(owner: int) -> set[int]:
    return {entry.stat().st_ino for entry in NETNS.iterdir() if entry.name.startswith(f"nopull-{owner}-")}
