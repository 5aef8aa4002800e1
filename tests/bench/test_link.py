"""The emulated link carries bytes between two closed namespaces and leaves nothing behind."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.child import command_in, run_command
from bench.link import DEVICE, NETNS, open_link
from bench.link_schedule import DEMO_LINK, LinkShape
from bench.proxy_link import open_proxy
from bench.registry_server import RegistryServer

FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).status)"


def fetch_command(host: str, client: str | None) -> list[str]:
    """Return a command that asks a registry's root and prints the status."""
    return command_in(client, [sys.executable, "-c", FETCH, f"http://{host}/v2/"])


def own_namespaces(pid: int) -> list[str]:
    """Return the names of network namespaces that a process made."""
    return [entry.name for entry in NETNS.iterdir() if entry.name.startswith(f"nopull-{pid}-")]


@pytest.mark.system
def test_the_link_reaches_the_server_from_the_client_and_from_nowhere_else(tmp_path: Path) -> None:
    with (
        open_link(DEMO_LINK) as link,
        RegistryServer(tmp_path, address=link.server_address, namespace=link.server) as server,
    ):
        told = run_command(fetch_command(server.host, link.client), doing="asking over the link")
        assert told.strip() == "200"
        alone = subprocess.run(
            command_in(None, ["unshare", "--net", *fetch_command(server.host, None)]),
            capture_output=True,
            check=False,
        )
        assert alone.returncode != 0
    assert own_namespaces(os.getpid()) == []


@pytest.mark.system
def test_what_a_killed_owner_left_is_removed_by_the_next_one() -> None:
    program = (
        "import time\nfrom bench.link import open_link\nfrom bench.link_schedule import DEMO_LINK\n"
        "with open_link(DEMO_LINK): print('open', flush=True); time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"open\n"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert len(own_namespaces(owner.pid)) == 2
    with open_link(DEMO_LINK):
        assert own_namespaces(owner.pid) == []


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers a GET with the path it asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def echo_host() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_proxy_passes_bytes_unchanged_and_never_early(echo_host: str) -> None:
    shape = LinkShape(delay_seconds=0.02, bits_per_second=8e6)
    long_path = "/" + "x" * 20_000
    with open_proxy(echo_host, shape) as host:
        begun = time.monotonic()
        with urllib.request.urlopen(f"http://{host}{long_path}", timeout=20) as answer:
            assert answer.read() == long_path.encode()
        # A lower bound only: two round trips (connect, ask) and 20 kB each way at 1 MB/s.
        assert time.monotonic() - begun >= 4 * shape.delay_seconds + 0.04


@pytest.mark.system
def test_the_link_survives_packets_for_an_end_that_is_not_up(tmp_path: Path) -> None:
    with open_link(DEMO_LINK) as link:
        for state in ("down", "up"):
            run_command(["ip", "-n", link.server, "link", "set", DEVICE, state], doing="switching")
            if state == "down":
                ask = fetch_command(f"{link.server_address}:1", link.client)
                assert (
                    subprocess.run(["timeout", "0.5", *ask], capture_output=True, check=False).returncode != 0
                )
        with RegistryServer(tmp_path, address=link.server_address, namespace=link.server) as server:
            told = run_command(fetch_command(server.host, link.client), doing="asking over the link")
    assert told.strip() == "200"
