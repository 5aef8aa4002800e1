"""Debian's docker-registry for tests: storage of its own, accounts, and an address that outlives a stop.

Its access log is the oracle for what was really asked and sent.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from bench.registry_server import Access, RegistryServer

__all__ = ["Access", "DebianRegistry"]


class DebianRegistry:
    """A registry with its own storage in a temporary directory. Start it, or use it as a context manager."""

    started: ClassVar[int] = 0
    """How many of them were started so far."""

    def __init__(
        self,
        *,
        accounts: Mapping[str, str] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """*accounts*: names and passwords, for Basic authentication; None lets everybody do everything.

        *settings*: see `RegistryServer`.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="debian-registry-"))
        self._settings = dict(settings or {})
        if accounts is not None:
            file = self._directory / "htpasswd"
            lines = [f"{name}:{_bcrypt(password)}\n" for name, password in accounts.items()]
            file.write_text("".join(lines), encoding="utf-8")
            self._settings["auth"] = {"htpasswd": {"realm": "test", "path": str(file)}}
        self._server: RegistryServer | None = None

    @property
    def server(self) -> RegistryServer:
        """The one that was started last."""
        assert self._server is not None, "not started"
        return self._server

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`; stays the same over `stop` and `start`."""
        return self.server.host

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def pid(self) -> int:
        return self.server.pid

    def start(self) -> DebianRegistry:
        """Return once it listens."""
        DebianRegistry.started += 1
        port = None if self._server is None else self._server.port
        self._server = RegistryServer(self._directory, port=port, settings=self._settings)
        return self

    def stop(self) -> None:
        """Stop it, keeping what it stores; nothing happens when it does not run."""
        if self._server is not None:
            self._server.stop()

    def remove(self) -> None:
        """Stop it and delete what it stored."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> DebianRegistry:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def accesses(self) -> list[Access]:
        """What was asked so far, in order of completion.

        A line is written when the answer has been sent, perhaps a moment after the client has read it.
        """
        return self.server.accesses()


def _bcrypt(password: str) -> str:
    """docker-registry reads no other kind of hash; the C library makes them, the standard library no
    longer does.
    """
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed: bytes | None = library.crypt(password.encode(), b"$2b$05$" + b"abcdefghijklmnopqrstuu")
    if not hashed or not hashed.startswith(b"$2b$"):
        raise AssertionError("this machine's libcrypt cannot make bcrypt hashes")
    # The registry was built with a Go library that only knows the older name of the same thing.
    return "$2y$" + hashed.decode("ascii")[4:]
