"""An emulated link between two network namespaces, for as long as a `with` block lasts.

The client lives in one namespace and the registry in the other; between them lie two TUN devices and
a process that delays packets (`bench.link_mover`). Needs root. What it leaves behind when killed –
two names below /var/run/netns – the next one removes, since the names carry the owner's process id.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.child import run_command, start_child, stop_child, tail
from bench.errors import BenchError, RootNeeded
from bench.link_schedule import LinkShape

NETNS = Path("/var/run/netns")
NAME = re.compile(r"nopull-(?P<pid>\d+)-(?:client|server)")
DEVICE = "nopull0"
# TEST-NET-2 of RFC 5737: no machine's own network can have it, and the namespaces are closed anyway.
CLIENT_ADDRESS = "198.51.100.1"
SERVER_ADDRESS = "198.51.100.2"
START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """The two ends: names of network namespaces, and the server's address as the client sees it."""

    client: str
    server: str
    server_address: str
    shape: LinkShape


@contextlib.contextmanager
def open_link(shape: LinkShape) -> Iterator[Link]:
    """Make the namespaces and the link between them; remove them at the end.

    Whatever was started inside must have been stopped before the block ends.

    Raises:
        RootNeeded: we are not root.
        BenchError: a namespace or a device could not be made.
    """
    if os.geteuid() != 0:
        raise RootNeeded("making an emulated link: network namespaces and TUN devices need root")
    remove_stale()
    link = Link(f"nopull-{os.getpid()}-client", f"nopull-{os.getpid()}-server", SERVER_ADDRESS, shape)
    with contextlib.ExitStack() as undo:
        for name in (link.client, link.server):
            run_command(["ip", "netns", "add", name], doing="making a network namespace")
            undo.callback(remove_namespace, name)
        # Without a name, so that nothing is left of it even if we are killed.
        log = Path(f"/proc/self/fd/{undo.enter_context(tempfile.TemporaryFile()).fileno()}")
        undo.callback(stop_child, mover := _start_mover(link, log))
        _await_moving(mover, log)
        for name, address in ((link.client, CLIENT_ADDRESS), (link.server, SERVER_ADDRESS)):
            _set_up(name, address)
        yield link


def remove_namespace(name: str) -> None:
    """Remove the name of a network namespace; the devices go with its last user."""
    subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


def remove_stale() -> None:
    """Remove namespaces of earlier owners that were killed."""
    if not NETNS.is_dir():
        return
    for entry in NETNS.iterdir():
        match = NAME.fullmatch(entry.name)
        if match and not Path("/proc", match["pid"]).exists():
            remove_namespace(entry.name)


def _start_mover(link: Link, log: Path) -> subprocess.Popen[bytes]:
    shape = link.shape
    limits = [
        f"--delay={shape.delay_seconds}",
        f"--rate={shape.bits_per_second}",
        f"--queue={shape.queue_seconds}",
    ]
    ends = [link.client, link.server, DEVICE]
    return start_child([sys.executable, "-P", "-m", "bench.link_mover", *ends, *limits], stdout=log)


def _await_moving(mover: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "moving" not in log.read_text(errors="replace"):
        if mover.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"making an emulated link: the packet mover did not start: {tail(log)}")
        time.sleep(0.02)


def _set_up(namespace: str, address: str) -> None:
    for words in (
        ["link", "set", "lo", "up"],
        ["addr", "add", f"{address}/24", "dev", DEVICE],
        ["link", "set", DEVICE, "up", "mtu", "1500", "txqueuelen", "1000"],
    ):
        run_command(["ip", "-n", namespace, *words], doing="setting up an end of the link")
