"""Debian's docker-registry on a free loopback port: a counterpart that somebody else wrote.

Also used by the demo and the benchmarks, so nothing here imports pytest. Its access log is the oracle for
what was really asked and sent.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

PROGRAM = "docker-registry"
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_ACCESS = re.compile(r'"([A-Z]+) (\S+) HTTP/[0-9.]+" (\d{3}) (\d+)')
_START_SECONDS = 20.0


class RegistryNotStarted(Exception):
    """docker-registry is not installed, or did not come up; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the access log; `size` is what was sent of the body, in bytes."""

    method: str
    path: str
    status: int
    size: int


class DebianRegistry:
    """A registry with its own storage in a temporary directory. Start it, or use it as a context manager."""

    started: ClassVar[int] = 0
    """How many of them were started so far."""

    def __init__(
        self, *, accounts: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """*accounts*: names and passwords, for Basic authentication; None lets everybody do everything.

        *settings* are laid over the configuration, section by section (`{"middleware": …}`).
        """
        self._accounts = accounts
        self._settings = settings or {}
        self._directory: Path | None = None
        self._running: subprocess.Popen[bytes] | None = None
        self._address = "127.0.0.1:0"

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`; stays the same over `stop` and `start`."""
        return self._address

    @property
    def url(self) -> str:
        return f"http://{self._address}"

    @property
    def pid(self) -> int:
        assert self._running is not None, "not started"
        return self._running.pid

    def start(self) -> DebianRegistry:
        """Return once it answers.

        Raises:
            RegistryNotStarted.
        """
        DebianRegistry.started += 1
        program = shutil.which(PROGRAM)
        if program is None:
            raise RegistryNotStarted(f"{PROGRAM} is not installed; install the Debian package {PROGRAM}")
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="debian-registry-"))
        configuration = self._directory / "config.yml"
        # YAML is a superset of JSON.
        configuration.write_text(json.dumps(self._configuration(self._directory)), encoding="utf-8")
        seen = len(self._log())
        with (self._directory / "log").open("ab") as log:
            self._running = subprocess.Popen(
                [program, "serve", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_until_ready(seen)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it, keeping what it stores; nothing happens when it does not run."""
        running, self._running = self._running, None
        if running is None:
            return
        running.terminate()
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    def remove(self) -> None:
        """Stop it and delete what it stored."""
        self.stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> DebianRegistry:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def accesses(self) -> list[Access]:
        """What was asked so far, in order of completion, without the start-up probe.

        A line is written when the answer has been sent, perhaps a moment after the client has read it.
        """
        return [
            Access(match[1], match[2], int(match[3]), int(match[4]))
            for match in _ACCESS.finditer(self._log())
            if match[2] != "/"
        ]

    def _log(self) -> str:
        assert self._directory is not None
        log = self._directory / "log"
        return log.read_text("utf-8", "replace") if log.exists() else ""

    def _configuration(self, directory: Path) -> dict[str, Any]:
        configuration: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(directory / "storage")},
                "delete": {"enabled": True},
                # The upload purger logs on its own schedule and does nothing for a registry of minutes.
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": self._address},
        }
        if self._accounts is not None:
            file = directory / "htpasswd"
            lines = [f"{name}:{_bcrypt(password)}\n" for name, password in self._accounts.items()]
            file.write_text("".join(lines), encoding="utf-8")
            configuration["auth"] = {"htpasswd": {"realm": "test", "path": str(file)}}
        for section, values in self._settings.items():
            if isinstance(values, Mapping):
                configuration[section] = {**configuration.get(section, {}), **values}
            else:
                configuration[section] = values
        return configuration

    def _wait_until_ready(self, seen: int) -> None:
        assert self._running is not None
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._running.poll() is not None:
                break
            match = _LISTENING.search(self._log(), seen)
            if match and self._answers(match[1]):
                self._address = match[1]
                return
            time.sleep(0.02)
        raise RegistryNotStarted(f"{PROGRAM} did not come up; the end of its log:\n{self._log()[-2000:]}")

    @staticmethod
    def _answers(address: str) -> bool:
        with suppress(URLError, OSError):
            try:
                urlopen(f"http://{address}/", timeout=2).close()
            except HTTPError as error:
                error.close()
            return True
        return False


def _bcrypt(password: str) -> str:
    """docker-registry reads no other kind of hash; the C library makes them, the standard library no
    longer does.
    """
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed: bytes | None = library.crypt(password.encode(), b"$2b$05$" + b"abcdefghijklmnopqrstuu")
    if not hashed or not hashed.startswith(b"$2b$"):
        raise RegistryNotStarted("this machine's libcrypt cannot make bcrypt hashes")
    # The registry was built with a Go library that only knows the older name of the same thing.
    return "$2y$" + hashed.decode("ascii")[4:]
