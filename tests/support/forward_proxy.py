"""An HTTP proxy in this process that leads every name to one address: tunnels, and whole URLs."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class ForwardProxy:
    """Use it as a context manager. `asked` has the first line of each connection's first request."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        self.authorizations: list[str] = []
        self.refuse = False
        """Answer 403 to everything."""

    def __enter__(self) -> ForwardProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse and cut all connections; may be called again."""
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            head, rest = head.split(b"\r\n\r\n", 1)
            line, *headers = head.decode("latin-1").split("\r\n")
            method, url, version = line.split()
            self.asked.append(f"{method} {url}")
            for header in headers:
                name, _, value = header.partition(":")
                if name.lower() == "proxy-authorization":
                    self.authorizations.append(value.strip())
            if self.refuse:
                connection.sendall(b"HTTP/1.1 403 Refused\r\nContent-Length: 0\r\n\r\n")
                return
            upstream = socket.create_connection(self._target, timeout=10)
            self._open.append(upstream)
            if method == "CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                self._pump_both(connection, upstream, rest)
            else:
                self._one_request(connection, upstream, (method, url, version), headers, rest)
        except OSError:
            return
        finally:
            connection.close()

    def _one_request(
        self,
        connection: socket.socket,
        upstream: socket.socket,
        line: tuple[str, str, str],
        headers: list[str],
        rest: bytes,
    ) -> None:
        """Hand on the first request without the proxy's own headers, what follows as it is."""
        method, url, version = line
        path = "/" + url.split("/", 3)[3]
        kept = [one for one in headers if not one.lower().startswith("proxy-")]
        text = "\r\n".join([f"{method} {path} {version}", *kept, "", ""])
        upstream.sendall(text.encode("latin-1") + rest)
        self._pump_both(connection, upstream, b"")

    def _pump_both(self, connection: socket.socket, upstream: socket.socket, rest: bytes) -> None:
        if rest:
            upstream.sendall(rest)
        back = threading.Thread(target=_pump, args=(upstream, connection), daemon=True)
        back.start()
        _pump(connection, upstream)
        back.join(10)
        upstream.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
