"""Open connections to one host: taken last-in-first-out, bounded, opened ahead of need, never trusted
when stale.

Built on urllib3's connections instead of its pool, because a pool that is to be filled ahead of need, to
send URLs byte for byte (signed ones break otherwise) and to enforce a total deadline has to hold its
sockets itself. Plain requests and answers only: redirects, credentials and retries are decided above.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from registry_client.errors import Unreachable
from registry_client.options import PROXY_VARIABLES, RegistryOptions
from registry_client.transport.answer import Answer
from registry_client.transport.bound import ConnectionBound
from registry_client.transport.deadline import Deadline
from registry_client.transport.dialling import SOCKET_OPTIONS, Connection, PlainConnection
from registry_client.transport.origin import Origin
from registry_client.transport.wire import FOREIGN_ERRORS, Counters, WireFailure, explain, too_late

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection

    from registry_client.transport.proxies import Proxy
    from registry_client.transport.tls import Trust

__all__ = ["ConnectionPool", "Origin", "Pools"]


class ConnectionPool:
    """Connections to *origin*, as many as pay and at most `options.connections`; all methods from any
    thread.
    """

    def __init__(
        self, origin: Origin, options: RegistryOptions, counters: Counters, trust: Trust | None = None
    ) -> None:
        self.origin = origin
        self._options = options
        self._trust = trust
        self._counters = counters
        self._forget()
        _POOLS.add(self)

    def _forget(self) -> None:
        # Protects the fields below; nothing else is taken under it, and nothing is sent or opened under it.
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._ahead: set[Connection] = set()
        self._bound = ConnectionBound(self._options.connections)
        self._opening = 0
        self._waiting = 0
        self._closed = False
        self._keeps = True

    @property
    def bound(self) -> int:
        """How many connections are allowed at the moment."""
        return self._bound.value

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
                    raise too_late(deadline)
                try:
                    if connection.wrapped.sock is None:
                        timeout = min(timeout, self._options.connect_timeout)
                        self._open(connection, timeout)
                        timeout = min(max(deadline.remaining(), 0.001), self._options.stall_timeout)
                    connection.wrapped.timeout = timeout
                    connection.started = time.monotonic()
                    if connection.prefix:
                        headers, target = connection.through_proxy(headers, target)
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
                delay = time.monotonic() - connection.started
                return Answer(response, connection, self, deadline, timeout, delay)
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
            room = self._options.connections - len(self._busy) - self._opening - len(self._idle)
            missing = min(connections - self._opening - len(self._idle), room)
            self._opening += max(missing, 0)
        for _ in range(missing):
            threading.Thread(target=self._open_ahead, name="registry-warm", daemon=True).start()

    def release(self, connection: Connection, size: int, delay: float) -> None:
        """Take back a connection whose answer was read to the end: *size* bytes, begun after *delay* s."""
        taken = time.monotonic() - connection.started
        with self._changed:
            if size and len(self._busy) >= self._bound.value:
                self._bound.note(size, delay, taken)
            self._busy.discard(connection)
            keep = self._keeps and connection.wrapped.sock is not None
            if keep:
                self._idle.append(connection)
            if self._waiting:
                self._changed.notify()
        if not keep:
            connection.wrapped.close()

    def discard(self, connection: Connection) -> None:
        """Close a connection; another may be opened in its place."""
        with self._changed:
            self._busy.discard(connection)
            self._changed.notify()
        connection.wrapped.close()

    def close(self, *, abort: bool = True) -> None:
        """Close what is idle and *abort* what is in use; without that only keep nothing from now on."""
        with self._changed:
            self._closed = self._closed or abort
            self._keeps = False
            idle, self._idle = self._idle, []
            if abort:
                for connection in (*self._busy, *self._ahead):
                    connection.abort()
            self._changed.notify_all()
        for connection in idle:
            connection.wrapped.close()

    def _take(self, deadline: Deadline) -> tuple[Connection, bool]:
        """A connection that is now ours, and whether it was kept from an earlier request."""
        while True:
            with self._changed:
                while not self._idle:
                    if self._closed:
                        raise WireFailure("it was closed by this program", temporary=False)
                    if self._opening <= self._waiting and len(self._busy) + self._opening < self._bound.value:
                        connection = Connection(self._build, proxy_to(self.origin, self._options))
                        self._busy.add(connection)
                        return connection, False
                    self._wait(deadline)
                connection = self._idle.pop()
                self._busy.add(connection)
            # A system call that lets other threads run: not under the lock they would want next.
            if connection.wrapped.is_connected:
                return connection, True
            self.discard(connection)

    def _wait(self, deadline: Deadline) -> None:
        remaining = deadline.remaining()
        if remaining <= 0:
            self._changed.notify()  # what woke us may be for the next in line
            raise WireFailure(f"all {self._bound.value} connections stayed busy")
        self._waiting += 1
        try:
            self._changed.wait(remaining)
        finally:
            self._waiting -= 1

    def _open_ahead(self) -> None:
        made: Connection | None = None
        connection: Connection | None = None
        try:
            made = Connection(self._build, proxy_to(self.origin, self._options))
            with self._changed:
                self._ahead.add(made)
            self._open(made, self._options.connect_timeout)
            connection = made
        except (*FOREIGN_ERRORS, WireFailure, Unreachable):
            if made is not None:
                made.wrapped.close()
        with self._changed:
            self._opening -= 1
            if made is not None:
                self._ahead.discard(made)
            if connection is not None and self._keeps:
                self._idle.append(connection)
                connection = None
            self._changed.notify_all()
        if connection is not None:
            connection.wrapped.close()

    def _open(self, connection: Connection, timeout: float) -> None:
        connection.open(timeout)
        self._counters.add(connections=1)
        if self._closed:
            raise WireFailure("it was closed by this program", temporary=False)

    def _build(self, proxy: Proxy | None) -> HTTPConnection:
        settings: dict[str, Any] = {"socket_options": SOCKET_OPTIONS}
        host, port = (self.origin.host, self.origin.port) if proxy is None else (proxy.host, proxy.port)
        if self.origin.scheme == "http":
            return PlainConnection(host, port, **settings)
        from registry_client.transport.secure import SecureConnection
        from registry_client.transport.tls import context

        made = SecureConnection(host, port, ssl_context=context(self.trust()), **settings)
        if proxy is not None:
            made.set_tunnel(self.origin.host, self.origin.port, proxy.headers())
        return made

    def trust(self) -> Trust:
        """Whom connections here believe."""
        if self._trust is not None:
            return self._trust
        from registry_client.transport.tls import Trust

        return Trust(self._options.tls_verify)


def proxy_to(origin: Origin, options: RegistryOptions) -> Proxy | None:
    """The proxy of the environment for *origin*, as `proxies.proxy_for`, loaded only where one is named."""
    if not any(name in options.variables for name in PROXY_VARIABLES):
        return None
    from registry_client.transport.proxies import proxy_for

    return proxy_for(origin, options.variables)


class Pools:
    """The pools of one client, by origin: a registry, its token server, its storage hosts."""

    def __init__(
        self,
        options: RegistryOptions,
        counters: Counters | None = None,
        trusts: Mapping[Origin, Trust] | None = None,
    ) -> None:
        """*trusts*: origins that are not trusted, or addressed, as *options* say."""
        self._options = options
        self.counters = counters or Counters()
        self.closing = threading.Event()
        self._trusts = trusts or {}
        self._lock = threading.Lock()  # protects _pools; nothing else is taken under it
        self._pools: dict[Origin, ConnectionPool] = {}

    def at(self, origin: Origin) -> ConnectionPool:
        with self._lock:
            pool = self._pools.get(origin)
            if pool is None:
                pool = self._pools[origin] = ConnectionPool(
                    origin, self._options, self.counters, self._trusts.get(origin)
                )
                if self.closing.is_set():
                    pool.close()
            return pool

    def close(self, *, abort: bool = True) -> None:
        """As `ConnectionPool.close`, for all; whoever pauses before another attempt is woken."""
        if abort:
            self.closing.set()
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.close(abort=abort)


_POOLS: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()


def _start_anew_in_child() -> None:
    # A socket used by parent and child mixes their answers; a lock held by another thread at the fork
    # stays held.
    for pool in list(_POOLS):
        pool._forget()


os.register_at_fork(after_in_child=_start_anew_in_child)
