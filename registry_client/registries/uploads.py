"""Requests with bodies, over the `requests` library: authorised, streamed, sent to `Location`s as they
were given.

Documents are sent again after what is temporary. Whatever else is sent once: `blob_upload` says when to try
that again, and with what. Sessions of the library are not used: they add netrc accounts, environment proxies
and a cookie jar shared by threads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from registry_client.errors import DigestMismatch, Unreachable
from registry_client.registries.endpoint import PLAIN_HEADERS, Endpoint
from registry_client.transport.connections import proxy_to
from registry_client.transport.deadline import Deadline
from registry_client.transport.redirect import HOPS, Location, parse_location
from registry_client.transport.refusal import refusal_of
from registry_client.transport.retrying import Attempts
from registry_client.transport.wire import FOREIGN_ERRORS, WireFailure, explain

# At DEBUG it logs every URL with its query, which for uploads to storage services is a secret.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)

_PROGRESS: Final = 1024 * 1024
_PIECE: Final = 256 * 1024
_ANSWER_LIMIT: Final = 64 * 1024
_REPEATABLE: Final = frozenset({307, 308})
_WAYS: Final = 16  # connections kept per host


class Readable(Protocol):
    """What a body is read from."""

    def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes."""


Body = bytes | tuple[Readable, int] | None
"""Bytes that can be sent again, a verified stream with its length that cannot, or nothing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An accepted answer: whence it came, its status and its headers."""

    place: Location
    status: int
    headers: CaseInsensitiveDict[str]

    def next_place(self) -> Location:
        """Where to go on with an upload.

        Raises:
            ResponseInvalid: no usable `Location`.
        """
        return parse_location(self.headers.get("Location"), self.place)


class Sender:
    """Sends for one endpoint; `send` from any thread."""

    def __init__(self, endpoint: Endpoint, actions: str) -> None:
        self._endpoint = endpoint
        self._actions = actions
        self._adapter = _Adapter(endpoint)

    def send(
        self,
        method: str,
        place: Location,
        body: Body,
        headers: Mapping[str, str],
        purpose: str,
        accepted: frozenset[int],
        deadline: Deadline,
    ) -> Stored:
        """Send once, more often only to authorise or to follow a redirect that repeats the request.

        Raises:
            WireFailure: no answer; or a stream was half sent when credentials had to be renewed: send it
            again. NotFound, Unauthorized, Unreachable, ResponseInvalid: the answer's status is not
            *accepted*. DigestMismatch: the stream is not what it was promised to be.
        """
        endpoint = self._endpoint
        endpoint.pace.wait(deadline)
        ours = place.origin == endpoint.origin
        used = endpoint.credentials(self._actions, deadline) if ours else None
        for _ in range(HOPS):
            sent = {**PLAIN_HEADERS, **headers, **({"Authorization": used} if used else {})}
            status, answered, text = self._once(method, place, body, sent, deadline)
            if status in accepted:
                return Stored(place, status, answered)
            better: str | None = None
            if status == 401 and ours:
                challenges = [answered["WWW-Authenticate"]] if "WWW-Authenticate" in answered else []
                better = endpoint.authorization.answer(challenges, used, self._actions, deadline)
            if better is not None:
                used = better
            elif status in _REPEATABLE:
                place = parse_location(answered.get("Location"), place)
                ours = place.origin == endpoint.origin
                used = endpoint.credentials(self._actions, deadline) if ours else None
            else:
                break
            if isinstance(body, tuple):
                raise WireFailure("it wants the content again")
        if status == 400 and "DIGEST_INVALID" in text:
            raise DigestMismatch(f"{endpoint.label} could not {purpose}: it received other bytes")
        who = endpoint.label if ours else f"{place.origin} for {endpoint.label}"
        account = endpoint.account if ours else ""
        error = refusal_of(status, answered.get("Retry-After"), text, who, purpose, account)
        if error.retry_after and ours:
            endpoint.pace.slow_down(error.retry_after)
        raise error

    def store(
        self,
        place: Location,
        document: bytes,
        headers: Mapping[str, str],
        purpose: str,
        accepted: frozenset[int],
        deadline: Deadline,
    ) -> Stored:
        """PUT *document*, again after what is temporary.

        Raises:
            NotFound, Unauthorized, Unreachable, ResponseInvalid, DigestMismatch.
        """
        attempts = Attempts(deadline, self._endpoint.attempts)
        while True:
            try:
                return self.send("PUT", place, document, headers, purpose, accepted, deadline)
            except WireFailure as failure:
                attempts.pause_or_raise(self._endpoint.unreachable(failure, purpose))
            except Unreachable as error:
                attempts.pause_or_raise(error)

    def close(self) -> None:
        self._adapter.close()

    def _once(
        self, method: str, place: Location, body: Body, headers: Mapping[str, str], deadline: Deadline
    ) -> tuple[int, CaseInsensitiveDict[str], str]:
        options = self._endpoint.options
        url = f"{place.origin.scheme}://{_netloc(place)}{place.target}"
        prepared = requests.Request(method, url, headers=dict(headers)).prepare()
        # `prepare` would quote anew what the server had quoted its own way.
        prepared.url = url
        if isinstance(body, tuple):
            prepared.body = _Stream(body[0], deadline)  # type: ignore[assignment]
            prepared.headers["Content-Length"] = str(body[1])
        else:
            prepared.body = body or b""
            prepared.headers["Content-Length"] = str(len(body or b""))
        timeouts = (min(options.connect_timeout, options.timeout), options.timeout)
        self._endpoint.pools.counters.add(requests=1)
        proxy = proxy_to(place.origin, options)
        proxies = {place.origin.scheme: proxy.url} if proxy is not None else {}
        self._adapter.prepare_for(proxies)
        try:
            answer = self._adapter.send(
                prepared, stream=True, timeout=timeouts, verify=options.tls_verify, proxies=proxies
            )
            try:
                text = answer.raw.read(_ANSWER_LIMIT, decode_content=False).decode("utf-8", "replace")
            finally:
                answer.close()
        except FOREIGN_ERRORS as error:
            failure = explain(error, options.timeout, deadline)
            failure.host = str(place.origin)
            raise failure from error
        return answer.status_code, answer.headers, text


class _Stream:
    """A body that is read while it is sent; progress renews the deadline, a drip runs into it."""

    def __init__(self, reader: Readable, deadline: Deadline) -> None:
        self._reader = reader
        self._deadline = deadline
        self._renewed = 0
        self._sent = 0

    def read(self, size: int = -1) -> bytes:
        if self._deadline.remaining() <= 0:
            raise WireFailure(f"it took less than 1 MiB in {self._deadline.seconds:g} s")
        # http.client asks for 16 KiB at a time; larger pieces cost a fraction of the calls.
        piece = self._reader.read(max(size, _PIECE) if size >= 0 else size)
        self._sent += len(piece)
        if self._sent - self._renewed >= _PROGRESS or not piece:
            self._renewed = self._sent
            self._deadline.renew()
        return piece


class _Adapter(HTTPAdapter):
    """One pool of connections per host, with the same trust as reads have."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._options = endpoint.options
        self._secure = endpoint.origin.scheme == "https"
        self._trust = endpoint.trust
        super().__init__(pool_connections=8, pool_maxsize=_WAYS, max_retries=0)
        if not endpoint.options.tls_verify:
            from urllib3 import disable_warnings
            from urllib3.exceptions import InsecureRequestWarning

            disable_warnings(InsecureRequestWarning)  # the user has just asked for it

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        settings.update(self._tls())
        super().init_poolmanager(*args, **settings)

    def prepare_for(self, proxies: Mapping[str, str]) -> None:
        """Have *proxies* reached with the same trust."""
        for proxy in proxies.values():
            self.proxy_manager_for(proxy, **self._tls())

    def _tls(self) -> dict[str, Any]:
        if not self._secure:
            return {}
        from registry_client.transport.tls import context

        return {"ssl_context": context(self._trust)}


def _netloc(place: Location) -> str:
    host = f"[{place.origin.host}]" if ":" in place.origin.host else place.origin.host
    return f"{host}:{place.origin.port}"
