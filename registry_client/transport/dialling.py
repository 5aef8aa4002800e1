"""One TCP connection, perhaps through a proxy: how it comes up, and how it is ended from another thread.

Built on urllib3's connections. Which host, how many, and what is sent are decided above (`connections`).
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from urllib3.connection import HTTPConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from registry_client.transport.proxies import Proxy

SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A load balancer forgets a silent connection after some 350 s without telling; probes keep it known,
    # and let the kernel notice within 30 s more that the other side is gone.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class Dialler:
    """For classes of urllib3: connects by itself, so that the socket is known before it is connected."""

    _dns_host: str
    port: int
    timeout: float | None
    dialled: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        end = time.monotonic() + (self.timeout or 0)
        addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        failure: OSError = ConnectionRefusedError("no address")
        for left, (family, kind, protocol, _, address) in zip(
            range(len(addresses), 0, -1), addresses, strict=True
        ):
            dialled = self.dialled = socket.socket(family, kind, protocol)
            try:
                for option in SOCKET_OPTIONS:
                    dialled.setsockopt(*option)
                # A name's first address may be dead: the others get their share of the time.
                dialled.settimeout(max((end - time.monotonic()) / left, 0.001))
                dialled.connect(address)
            except OSError as error:
                dialled.close()
                failure = error
                continue
            return dialled
        self.dialled = None
        raise failure


class PlainConnection(Dialler, HTTPConnection):
    """HTTP, to a host or to a proxy."""


class Connection:
    """One connection that may or may not be open, and its socket for time-outs while an answer is read."""

    __slots__ = ("_build", "_socket", "prefix", "proxy", "started", "wrapped")

    def __init__(self, build: Callable[[Proxy | None], HTTPConnection], proxy: Proxy | None) -> None:
        self._build = build
        self._socket: socket.socket | None = None
        self.proxy = proxy
        self.wrapped = build(proxy)
        self.prefix = proxy.prefix if proxy is not None else ""
        """What goes before a target: a proxy for plain HTTP wants the whole URL."""
        self.started = 0.0

    def open(self, timeout: float) -> None:
        """Connect within *timeout* seconds; a proxy that cannot be reached is gone around."""
        try:
            self._connect(timeout)
        except OSError:
            proxy = self.proxy
            if proxy is None or getattr(self.wrapped, "dialled", None) is not None:
                raise
            proxy.failed()
            self.proxy, self.prefix = None, ""
            self.wrapped = self._build(None)
            self._connect(timeout)
        else:
            if self.proxy is not None:
                self.proxy.succeeded()

    def _connect(self, timeout: float) -> None:
        self.wrapped.timeout = timeout
        self.wrapped.connect()
        # http.client forgets the socket of an answer with `Connection: close`; its time-out must stay
        # changeable.
        self._socket = self.wrapped.sock

    def set_timeout(self, seconds: float) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            self._socket.settimeout(seconds)

    def through_proxy(self, headers: Mapping[str, str], target: str) -> tuple[Mapping[str, str], str]:
        """A plain request as its proxy wants it."""
        if self.proxy is None:
            return headers, target
        return {**headers, **self.proxy.headers()}, self.prefix + target

    def abort(self) -> None:
        """Wake the thread that uses this connection, whatever it waits for there. From any thread."""
        for one in (self._socket, getattr(self.wrapped, "dialled", None)):
            if one is not None:
                with suppress(OSError):
                    # Past TLS, which would take the lock of the thread that is reading.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)
