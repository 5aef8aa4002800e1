"""Open connections to one host: taken last-in-first-out, bounded, opened ahead of need, never trusted
when stale.

Built on urllib3's connections instead of its pool, because a pool that is to be filled ahead of need, to
send URLs byte for byte (signed ones break otherwise) and to enforce a total deadline has to hold its
sockets itself. Plain requests and answers only: redirects, credentials and retries are decided above.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from registry_client.answer import Answer
from registry_client.deadline import Deadline
from registry_client.options import RegistryOptions
from registry_client.wire import FOREIGN_ERRORS, Counters, WireFailure, explain

_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A load balancer forgets a silent connection after some 350 s without telling; probes keep it known,
    # and let the kernel notice within 30 s more that the other side is gone.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host name (IPv6 without brackets) and port: what a connection, and trust, belongs to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}.get(self.scheme)
        return host if self.port == default else f"{host}:{self.port}"


class Connection:
    """One connection that may or may not be open, and its socket for time-outs while an answer is read."""

    __slots__ = ("_socket", "wrapped")

    def __init__(self, wrapped: HTTPConnection) -> None:
        self.wrapped = wrapped
        self._socket: socket.socket | None = None

    def open(self, timeout: float) -> None:
        self.wrapped.timeout = timeout
        self.wrapped.connect()
        # http.client forgets the socket of an answer with `Connection: close`; its time-out must stay
        # changeable.
        self._socket = self.wrapped.sock

    def set_timeout(self, seconds: float) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            self._socket.settimeout(seconds)


class ConnectionPool:
    """At most `options.connections` connections to *origin*; all methods from any thread."""

    def __init__(self, origin: Origin, options: RegistryOptions, counters: Counters) -> None:
        self.origin = origin
        self._options = options
        self._counters = counters
        self._forget()
        _POOLS.add(self)

    def _forget(self) -> None:
        # Protects the fields below; nothing else is taken under it, and nothing is sent or opened under it.
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._busy = 0
        self._opening = 0
        self._waiting = 0
        self._closed = False

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request and return its answer, whatever the status. *target* goes out byte for byte.

        A kept connection that turns out dead is replaced at once, once.

        Raises:
            WireFailure: no answer.
        """
        connection, kept = self._take(deadline)
        try:
            while True:
                timeout = min(deadline.remaining(), self._options.stall_timeout)
                if timeout <= 0:
                    raise WireFailure(f"the deadline of {deadline.seconds:g} s passed")
                try:
                    if connection.wrapped.sock is None:
                        timeout = min(timeout, self._options.connect_timeout)
                        self._open(connection, timeout)
                        timeout = min(max(deadline.remaining(), 0.001), self._options.stall_timeout)
                    connection.wrapped.timeout = timeout
                    connection.wrapped.request(
                        method,
                        target,
                        body=body,
                        headers=headers,
                        preload_content=False,
                        decode_content=False,
                    )
                    response = connection.wrapped.getresponse()
                except FOREIGN_ERRORS as error:
                    connection.wrapped.close()
                    if kept and isinstance(error, ConnectionError):
                        kept = False
                        continue
                    raise self.failure(error, timeout, deadline) from error
                self._counters.add(requests=1)
                return Answer(response, connection, self, deadline, timeout)
        except BaseException:
            self.discard(connection)
            raise

    def failure(self, error: Exception, timeout: float, deadline: Deadline) -> WireFailure:
        """*error* of the transport, which waited *timeout* seconds, as a failure of this host."""
        failure = explain(error, timeout, deadline)
        failure.host = str(self.origin)
        return failure

    def warm(self, connections: int) -> None:
        """Have *connections* connections idle soon, as far as the bound allows; returns at once.

        A request that comes meanwhile takes the first that is ready instead of opening its own.
        """
        with self._changed:
            if self._closed:
                return
            room = self._options.connections - self._busy - self._opening - len(self._idle)
            missing = min(connections - self._opening - len(self._idle), room)
            self._opening += max(missing, 0)
        for _ in range(missing):
            threading.Thread(target=self._open_ahead, name="registry-warm", daemon=True).start()

    def release(self, connection: Connection) -> None:
        """Take back a connection whose answer was read to the end."""
        with self._changed:
            self._busy -= 1
            keep = not self._closed and connection.wrapped.sock is not None
            if keep:
                self._idle.append(connection)
            self._changed.notify()
        if not keep:
            connection.wrapped.close()

    def discard(self, connection: Connection) -> None:
        """Close a connection; another may be opened in its place."""
        with self._changed:
            self._busy -= 1
            self._changed.notify()
        connection.wrapped.close()

    def close(self) -> None:
        """Close what is idle now and what is in use when it comes back."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for connection in idle:
            connection.wrapped.close()

    def _take(self, deadline: Deadline) -> tuple[Connection, bool]:
        """A connection that is now ours, and whether it was kept from an earlier request."""
        dead: list[Connection] = []
        try:
            with self._changed:
                while True:
                    if self._closed:
                        raise WireFailure("it was closed by this program", temporary=False)
                    while self._idle:
                        connection = self._idle.pop()
                        if connection.wrapped.is_connected:
                            self._busy += 1
                            return connection, True
                        dead.append(connection)
                    if (
                        self._opening <= self._waiting
                        and self._busy + self._opening < self._options.connections
                    ):
                        self._busy += 1
                        return Connection(self._build()), False
                    self._wait(deadline)
        finally:
            for connection in dead:
                connection.wrapped.close()

    def _wait(self, deadline: Deadline) -> None:
        remaining = deadline.remaining()
        if remaining <= 0:
            self._changed.notify()  # what woke us may be for the next in line
            raise WireFailure(f"all {self._options.connections} connections stayed busy")
        self._waiting += 1
        try:
            self._changed.wait(remaining)
        finally:
            self._waiting -= 1

    def _open_ahead(self) -> None:
        connection: Connection | None = Connection(self._build())
        try:
            assert connection is not None
            self._open(connection, self._options.connect_timeout)
        except (*FOREIGN_ERRORS, WireFailure):
            connection = None
        with self._changed:
            self._opening -= 1
            if connection is not None and not self._closed:
                self._idle.append(connection)
                connection = None
            self._changed.notify_all()
        if connection is not None:
            connection.wrapped.close()

    def _open(self, connection: Connection, timeout: float) -> None:
        connection.open(timeout)
        self._counters.add(connections=1)

    def _build(self) -> HTTPConnection:
        settings: dict[str, Any] = {"socket_options": _SOCKET_OPTIONS}
        if self.origin.scheme == "http":
            return HTTPConnection(self.origin.host, self.origin.port, **settings)
        from registry_client.tls import context

        settings["ssl_context"] = context(self._options.tls_verify, self._options.ca_file)
        return HTTPSConnection(self.origin.host, self.origin.port, **settings)


class Pools:
    """The pools of one client, by origin: a registry, its token server, its storage hosts."""

    def __init__(self, options: RegistryOptions) -> None:
        self._options = options
        self.counters = Counters()
        self._lock = threading.Lock()  # protects _pools; nothing else is taken under it
        self._pools: dict[Origin, ConnectionPool] = {}

    def at(self, origin: Origin) -> ConnectionPool:
        with self._lock:
            pool = self._pools.get(origin)
            if pool is None:
                pool = self._pools[origin] = ConnectionPool(origin, self._options, self.counters)
            return pool

    def close(self) -> None:
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()


_POOLS: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()


def _start_anew_in_child() -> None:
    # A socket used by parent and child mixes their answers; a lock held by another thread at the fork
    # stays held.
    for pool in list(_POOLS):
        pool._forget()


os.register_at_fork(after_in_child=_start_anew_in_child)
