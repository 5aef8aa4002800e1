"""HTTP written by hand: requests as they arrive, and replies that may be wrong in every way a server can
be wrong.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent. Header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes out. Content-Length is added unless `headers` has one, or chunks are sent, or it is left
    out.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    cut: int | None = None
    """Bytes of the body after which something happens: by default the connection is closed."""
    reset: bool = False
    """Close with a TCP reset."""
    stall: bool = False
    """Fall silent instead of closing."""
    drip: float | None = None
    """Send the body byte by byte, this many seconds apart."""
    chunked: bool = False
    silent: bool = False
    """Close without a word, as a server does that has just dropped an idle connection."""

    def having(self, **headers: str) -> Reply:
        """With these headers (underscores are dashes) instead of those of the same names."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = tuple(pair for pair in self.headers if pair[0].lower() not in {name.lower() for name in named})
        return replace(self, headers=(*kept, *named.items()))


def ranged(request: Request, content: bytes, media_type: str) -> Reply:
    """*content*, or the one range of it that *request* wants."""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", media_type),)
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None:
        return Reply(200, headers, content)
    first = int(match[1])
    last = min(int(match[2] or len(content) - 1), len(content) - 1)
    if first > last:
        return Reply(416, (("Content-Range", f"bytes */{len(content)}"),))
    headers = (*headers, ("Content-Range", f"bytes {first}-{last}/{len(content)}"))
    return Reply(206, headers, content[first : last + 1])


def read_request(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Request | None:
    line = readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while (text := readline().decode("latin-1").strip()) != "":
        name, _, value = text.partition(":")
        headers[name.strip().lower()] = value.strip()
    target = line[1]
    if target.startswith("http://"):
        # As proxies are asked; RFC 9112 has servers understand it too.
        target = "/" + target.split("/", 3)[3]
    return Request(line[0], target, headers, read(int(headers.get("content-length", 0))))


def send_reply(connection: socket.socket, request: Request, reply: Reply, over: threading.Event) -> bool:
    if reply.silent:
        return False
    names = {name.lower() for name, _ in reply.headers}
    headers = list(reply.headers)
    if reply.chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    elif "content-length" not in names and reply.status != 204:
        headers.append(("Content-Length", str(len(reply.body))))
    lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in headers), "", ""]
    connection.sendall("\r\n".join(lines).encode("latin-1"))
    body = b"" if request.method == "HEAD" else reply.body
    if reply.chunked:
        body = b"".join(
            b"%x\r\n%s\r\n" % (len(body[at : at + 999]), body[at : at + 999])
            for at in range(0, len(body), 999)
        )
        body += b"0\r\n\r\n"
    if reply.drip is not None:
        for byte in body:
            connection.sendall(bytes([byte]))
            if over.wait(reply.drip):
                return False
        return True
    connection.sendall(body if reply.cut is None else body[: reply.cut])
    if reply.stall:
        over.wait(60)
        return False
    if reply.reset:
        # Wait for what was sent to be read, else the reset overtakes it.
        over.wait(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    closes = ("connection", "close") in {(name.lower(), value) for name, value in headers}
    return reply.cut is None and not closes
