"""Debian's docker-registry as a child of ours: any namespace, a free port, its access log as evidence.

Not a client: nothing here speaks the registry protocol. Serves the demo, the measurements and the
system tests; the access log is the outside check on what anybody says was downloaded.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.child import start_child, stop_child, tail
from bench.errors import BenchError

START_SECONDS = 15.0
START_ATTEMPTS = 3  # another program may take the free port between our asking and the registry's bind
LISTENING = "0A"  # TCP_LISTEN as /proc/net/tcp prints it

_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[0-9.]+" (?P<status>\d{3}) (?P<size>\d+|-)')


@dataclass(frozen=True, slots=True)
class Access:
    """One request as the registry logged it; *size* is the length of the body in bytes."""

    method: str
    path: str
    status: int
    size: int

    @property
    def is_blob(self) -> bool:
        """Whether content of a blob was asked for (not a manifest, not the API root)."""
        return self.method == "GET" and "/blobs/" in self.path


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums over some accesses: what left the registry in bodies."""

    requests: int
    blob_requests: int
    bytes_sent: int


def parse_access_log(text: str) -> list[Access]:
    """Return the requests of a log, in order of their completion; other lines are passed over."""
    found = []
    for match in _ACCESS.finditer(text):
        size = 0 if match["size"] == "-" else int(match["size"])
        # A HEAD answer is logged with the length it announces, but has no body.
        body = 0 if match["method"] == "HEAD" else size
        found.append(Access(match["method"], match["path"], int(match["status"]), body))
    return found


def sum_traffic(accesses: list[Access]) -> Traffic:
    """Add up what the accesses carried."""
    return Traffic(
        requests=len(accesses),
        blob_requests=sum(1 for access in accesses if access.is_blob),
        bytes_sent=sum(access.size for access in accesses if access.method == "GET"),
    )


class RegistryServer:
    """A running registry; a context manager that stops it.

    Everything it keeps lies below *directory* (registry.yml, access.log, messages.log, content).
    With a *namespace* it listens there, on *address*; the port is free at the time of starting.
    *settings* are laid over registry.yml, section by section (for example `{"auth": …}`). Start it in a
    thread that lives as long as the server shall: it ends with that thread.

    Raises:
        ProgramMissing: docker-registry is not installed.
        BenchError: it did not start to listen within START_SECONDS.
    """

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        namespace: str | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.directory = directory
        self.address = address
        self.namespace = namespace
        self._access_log = directory / "access.log"
        self._messages = directory / "messages.log"
        (directory / "content").mkdir(parents=True, exist_ok=True)
        for attempt in range(START_ATTEMPTS):
            self.port = port or (5000 if namespace else _free_port(address))
            self._write_configuration(settings or {})
            self._child = start_child(
                ["docker-registry", "serve", str(directory / "registry.yml")],
                namespace=namespace,
                stdout=self._access_log,
                stderr=self._messages,
            )
            try:
                self._await_listening()
                return
            except BenchError:
                stop_child(self._child)
                if attempt + 1 == START_ATTEMPTS:
                    raise

    @property
    def host(self) -> str:
        """`address:port`, as it stands in an image reference."""
        return f"{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def mark(self) -> int:
        """Return a place in the access log; `accesses(mark)` gives what came after it."""
        return self._access_log.stat().st_size if self._access_log.exists() else 0

    def accesses(self, since: int = 0) -> list[Access]:
        """Return the completed requests logged after the place *since*, in order."""
        with self._access_log.open("rb") as log:
            log.seek(since)
            return parse_access_log(log.read().decode(errors="replace"))

    def stop(self) -> None:
        """Stop the registry; what it stored stays. Safe to call twice."""
        stop_child(self._child)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_configuration(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        sections: dict[str, Any] = {
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "content")},
                "delete": {"enabled": True},
                # On a schedule of its own, and with nothing to do in a registry of minutes.
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": self.host, "secret": "nopull"},
        }
        for name, values in settings.items():
            sections[name] = {**sections.get(name, {}), **values}
        # YAML is a superset of JSON.
        written = json.dumps({"version": 0.1, **sections})
        (self.directory / "registry.yml").write_text(written, encoding="utf-8")

    def _await_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                raise BenchError(f"starting docker-registry on {self.host}: it ended: {tail(self._messages)}")
            if is_listening(self._child, self.address, self.port):
                return
            time.sleep(0.02)
        raise BenchError(f"starting docker-registry on {self.host}: no listener after {START_SECONDS:.0f} s")


def is_listening(child: subprocess.Popen[bytes], address: str, port: int) -> bool:
    """Whether the child itself listens on that IPv4 address and port, in whatever namespace it is.

    Asked of /proc and not by connecting: it works across namespaces, leaves no line in any log and
    does not mistake another program's listener for the child's.
    """
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    proc = Path(f"/proc/{child.pid}")
    with contextlib.suppress(OSError):
        own = {str(entry.readlink()) for entry in (proc / "fd").iterdir()}
        for line in (proc / "net" / "tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == wanted and fields[3] == LISTENING and f"socket:[{fields[9]}]" in own:
                return True
    return False


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
