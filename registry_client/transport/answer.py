"""One HTTP answer whose body is still on the wire, and what becomes of its connection.

Bodies are read raw (never decoded) and as they arrive. An answer ends in `finish` (connection kept) or `drop`
(connection closed); both may be called again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from urllib3.response import BaseHTTPResponse

from registry_client.transport.wire import FOREIGN_ERRORS, WireFailure, too_late

if TYPE_CHECKING:
    from registry_client.transport.deadline import Deadline
    from registry_client.transport.dialling import Connection

_ERROR_BODY = 64 * 1024  # ggcr reads as much of an error's body


class Keeper(Protocol):
    """Whom connections belong to (`connections.ConnectionPool`)."""

    def failure(self, error: Exception, timeout: float, deadline: Deadline) -> WireFailure:
        """*error* of the transport, which waited *timeout* seconds, as a failure of this host."""

    def release(self, connection: Connection, size: int, delay: float) -> None:
        """Take back a connection whose answer was read to the end: *size* bytes, begun after *delay* s."""

    def discard(self, connection: Connection) -> None:
        """Close a connection; another may be opened in its place."""


class Answer:
    """Status, headers and the body to come. Owned by the thread that got it."""

    __slots__ = (
        "_connection",
        "_deadline",
        "_delay",
        "_pool",
        "_received",
        "_response",
        "_text",
        "_timeout",
        "headers",
        "status",
    )

    def __init__(
        self,
        response: BaseHTTPResponse,
        connection: Connection,
        pool: Keeper,
        deadline: Deadline,
        timeout: float,
        delay: float,
    ) -> None:
        """*delay*: seconds from the request to this answer's head."""
        self._response = response
        self._connection: Connection | None = connection
        self._pool = pool
        self._deadline = deadline
        self._timeout = timeout
        self._delay = delay
        self._received = 0
        self._text: str | None = None
        self.status = response.status
        self.headers = response.headers

    def length(self) -> int | None:
        """What Content-Length promises; None when it is absent, unreadable, or overruled by chunked
        coding.
        """
        text = self.headers.get("Content-Length")
        if text is None or self.chunked() or not (text.isascii() and text.isdigit()) or len(text) > 18:
            return None
        return int(text)

    def chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def read(self, limit: int) -> bytes:
        """What has arrived of the body, at most *limit* bytes; waits for at least one; b"" at the end.

        Raises:
            WireFailure: closed early, stalled, or past the deadline. The connection is closed.
        """
        remaining = self._deadline.remaining()
        if remaining < self._timeout:
            self._shorten(remaining)
        try:
            piece = self._response.read1(limit)
        except FOREIGN_ERRORS as error:
            self.drop()
            raise self._pool.failure(error, self._timeout, self._deadline) from error
        self._received += len(piece)
        return piece

    def finish(self) -> None:
        """Give the connection back: the caller has read what Content-Length promised, or b""."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._response.close()
            self._pool.release(connection, self._received, self._delay)

    def finish_exact(self) -> None:
        """As `finish`, for a caller that read all it wanted; a body that goes on is not waited for."""
        if self.length() is not None or self._connection is None:
            self.finish()
        elif not self.chunked() or self.read(1):
            self.drop()
        else:
            self.finish()

    def drop(self) -> None:
        """Close the connection; the rest of the body is of no interest."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._response.close()
            self._pool.discard(connection)

    def read_all(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            WireFailure: as `read`; or the body has more than *limit* bytes.
        """
        pieces = []
        left = limit
        while piece := self.read(min(left + 1, limit)):
            left -= len(piece)
            if left < 0:
                self.drop()
                raise WireFailure(f"the answer has more than {limit} bytes", temporary=False)
            pieces.append(piece)
        self.finish()
        return b"".join(pieces)

    def text(self) -> str:
        """Up to 64 KiB of an error's body, "" when there is none or it does not come. Ends the answer."""
        if self._text is None:
            self._text = ""
            # distribution 2.8.2 announces the blob's size with the 33 bytes of a 416 and then says no more.
            if self.status != 416 and (self.length() or 0) <= _ERROR_BODY:
                try:
                    self._text = self.read_all(_ERROR_BODY).decode("utf-8", "replace")
                except WireFailure:
                    self._text = ""
            self.drop()
        return self._text

    def _shorten(self, remaining: float) -> None:
        if remaining <= 0:
            self.drop()
            raise too_late(self._deadline)
        self._timeout = remaining
        if self._connection is not None:
            self._connection.set_timeout(remaining)
