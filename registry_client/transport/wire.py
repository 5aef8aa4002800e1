"""What can fail between a request and its answer, told apart by what it means for the next attempt.

`WireFailure` is internal: it says *why* in a few words, and whoever knows what the request was for makes the
sentence (`endpoint`). Also the counters that a source shows.
"""

from __future__ import annotations

import socket
import ssl
import threading
from http.client import HTTPException, IncompleteRead

from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError
from urllib3.exceptions import IncompleteRead as BodyIncomplete

from registry_client.transport.deadline import Deadline

CLIENT_ID = "nopull"
"""What we call ourselves to registries and token servers."""
_TUNNEL = "Tunnel connection failed: "  # http.client, before the proxy's status
FOREIGN_ERRORS = (HTTPError, HTTPException, OSError)
"""Everything the transport below may raise: urllib3's, http.client's, sockets' and TLS'."""


class WireFailure(Exception):
    """No usable answer. *reason* and *advice* are fragments of a sentence, without secrets."""

    def __init__(
        self,
        reason: str,
        *,
        advice: str = "",
        temporary: bool = True,
        retry_after: float | None = None,
        host: str = "",
        late: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        self.temporary = temporary
        self.retry_after = retry_after
        self.host = host
        """Who failed, when it is not the registry itself."""
        self.late = late
        """There was no time left, which says nothing about why."""


def too_late(deadline: Deadline) -> WireFailure:
    """The failure of what began or went on when *deadline* had passed."""
    return WireFailure(f"the deadline of {deadline.seconds:g} s passed", late=True)


def explain(error: Exception, seconds: float, deadline: Deadline) -> WireFailure:
    """*error* of the transport as a `WireFailure`; *seconds* is the time-out that was in force."""
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return WireFailure(
            f"its certificate is not trusted ({cause.verify_message})",
            advice="add its authority to this machine, or use --no-tls-verify if you must",
            temporary=False,
        )
    if isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return WireFailure("TLS was cut off", advice="does it speak TLS?")
    if isinstance(cause, ssl.SSLError):
        if "WRONG_VERSION_NUMBER" in str(cause) or "HTTP_REQUEST" in str(cause):
            return WireFailure(
                "it does not speak TLS", advice="use --plain-http if it is meant to", temporary=False
            )
        # Some versions of OpenSSL give no reason for an answer in plain HTTP.
        failed = f"TLS failed ({cause.reason or 'connection broken'})"
        return WireFailure(failed, advice="does it speak TLS?", temporary=False)
    if isinstance(error, NameResolutionError) or isinstance(cause, socket.gaierror):
        return WireFailure("its name cannot be resolved", advice="is the address right?")
    if isinstance(cause, ConnectionRefusedError):
        return WireFailure("connection refused", advice="is it running and is the address right?")
    if isinstance(cause, TimeoutError) or isinstance(error, ReadTimeoutError):
        if deadline.remaining() <= 0:
            return too_late(deadline)
        return WireFailure(f"nothing arrived for {seconds:.3g} s")
    if isinstance(cause, (IncompleteRead, BodyIncomplete)):
        return WireFailure("the connection was closed in the middle of the answer")
    if isinstance(cause, ConnectionError):
        return WireFailure("the connection was closed" if not cause.strerror else cause.strerror.lower())
    if isinstance(cause, OSError) and str(cause).startswith(_TUNNEL):
        said = str(cause)[len(_TUNNEL) :]
        return WireFailure(f"the proxy does not connect us ({said})", temporary=said.startswith("5"))
    if isinstance(cause, OSError) and cause.strerror:
        return WireFailure(cause.strerror.lower())
    return WireFailure(f"the answer is not HTTP ({type(cause).__name__})")


def _innermost(error: BaseException) -> BaseException:
    """urllib3 wraps what happened, sometimes twice, in `args` or as the cause."""
    for _ in range(8):
        inner = error.__cause__ or next(
            (one for one in reversed(error.args) if isinstance(one, Exception)), None
        )
        if inner is None or isinstance(error, (IncompleteRead, BodyIncomplete)):
            break
        error = inner
    return error


class Counters:
    """Requests sent, body bytes received and connections opened; exact from any number of threads."""

    __slots__ = ("_lock", "bytes_received", "connections", "requests")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the three numbers; nothing else is taken under it
        self.requests = 0
        self.bytes_received = 0
        self.connections = 0

    def add(self, *, requests: int = 0, bytes_received: int = 0, connections: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.bytes_received += bytes_received
            self.connections += connections
