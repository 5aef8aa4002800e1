"""One repository at one registry: where its API is, who we are there, and how its failures read.

Sends authorised requests, follows redirects by hand (credentials stay with the registry), retries what is
temporary. Ranges of blobs have their own loop in `blob_reader`; uploads in `registry_destination`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry_client.answer import Answer
from registry_client.connections import Origin, Pools
from registry_client.deadline import Deadline
from registry_client.errors import RegistryError, ResponseInvalid, Unreachable
from registry_client.options import RegistryOptions
from registry_client.redirect import HOPS, STATUSES, Location, parse_location
from registry_client.reference import DOCKER_HUB, Reference
from registry_client.refusal import refusal
from registry_client.retrying import ASKING_ATTEMPTS, Attempts, Pace
from registry_client.wire import CLIENT_ID, WireFailure

if TYPE_CHECKING:
    from registry_client.authorization import Authorization

# A front end that compresses on the fly would make offsets and digests those of other bytes.
PLAIN_HEADERS: Mapping[str, str] = {"User-Agent": CLIENT_ID, "Accept-Encoding": "identity"}
_HUB_API = "registry-1.docker.io"
_EXPIRED_WORDS = "token has expired"  # ECR says so with a 403 and no challenge


class Endpoint:
    """All methods from any thread."""

    def __init__(self, reference: Reference, options: RegistryOptions) -> None:
        self.host = reference.host
        self.repository = reference.repository
        self.options = options
        self.origin = registry_origin(reference.host, options)
        self.pools = Pools(options)
        self.pace = Pace()
        self._pool = self.pools.at(self.origin)
        self._lock = threading.Lock()  # protects making _authorization; nothing else is taken under it
        self._authorization: Authorization | None = None

    @property
    def authorization(self) -> Authorization:
        """Who we are here; made when the registry first asks, since many never do."""
        with self._lock:
            if self._authorization is None:
                from registry_client.authorization import Authorization

                self._authorization = Authorization(
                    self.origin, self.host, self.repository, self.options, self.pools
                )
            return self._authorization

    def credentials(self, actions: str, deadline: Deadline) -> str | None:
        """The Authorization header for *actions*; None as long as the registry has asked for none.

        Raises:
            Unauthorized, ResponseInvalid, Unreachable: a token was due and could not be had.
        """
        return self._authorization.header(actions, deadline) if self._authorization else None

    def path(self, kind: str, name: str) -> str:
        """The API path of a manifest or blob of this repository."""
        return f"/v2/{self.repository}/{kind}/{name}"

    def deadline(self) -> Deadline:
        return Deadline(self.options.timeout, self.pools.closing)

    def warm(self, connections: int) -> None:
        self._pool.warm(connections)

    def close(self) -> None:
        self.pools.close()

    def send(
        self, method: str, target: str, headers: Mapping[str, str], actions: str, deadline: Deadline
    ) -> Answer:
        """One authorised request to the registry itself: its answer, whatever the status.

        Raises:
            WireFailure: no answer.
            Unauthorized, ResponseInvalid, Unreachable: no token could be had.
        """
        self.pace.wait(deadline)
        used = self.credentials(actions, deadline)
        for _ in range(3):
            sent = {**headers, "Authorization": used} if used else headers
            answer = self._pool.send(method, target, sent, deadline)
            better = self._better(answer, used, actions, deadline)
            if better is None:
                break
            used = better
        return answer

    def _better(self, answer: Answer, used: str | None, actions: str, deadline: Deadline) -> str | None:
        """What to authorise with instead; None when *answer* is not about that, or nothing else is known."""
        if answer.status == 401:
            headers = answer.headers.getlist("WWW-Authenticate")
            answer.text()
            return self.authorization.answer(headers, used, actions, deadline)
        if answer.status == 403 and used and used.startswith("Basic") and _EXPIRED_WORDS in answer.text():
            return self.authorization.ask_again(used, deadline)
        return None

    def follow(
        self, answer: Answer, target: str, headers: Mapping[str, str], actions: str, deadline: Deadline
    ) -> tuple[Answer, Location | None]:
        """*answer* of the registry to a GET of *target*, or what its redirects lead to, and then from where.

        Raises:
            ResponseInvalid: too many redirects, or to a place that is refused.
            and what `send` raises.
        """
        place = Location(self.origin, target)
        hops = 0
        while answer.status in STATUSES:
            answer.text()
            if hops == HOPS:
                raise ResponseInvalid(f"registry {self.host} redirects more than {HOPS} times")
            hops += 1
            place = parse_location(answer.headers.get("Location"), place)
            if place.origin == self.origin:
                answer = self.send("GET", place.target, headers, actions, deadline)
            else:
                answer = self.pools.at(place.origin).send("GET", place.target, headers, deadline)
        return answer, place if hops else None

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        actions: str,
        purpose: str,
        accepted: frozenset[int],
        deadline: Deadline,
    ) -> Answer:
        """The answer with a status in *accepted*, after redirects (of a GET) and retries.

        Raises:
            NotFound, Unauthorized, Unreachable, ResponseInvalid.
        """
        attempts = Attempts(deadline, ASKING_ATTEMPTS)
        while True:
            try:
                answer = self.send(method, target, headers, actions, deadline)
                place = None
                if method == "GET":
                    answer, place = self.follow(answer, target, headers, actions, deadline)
                if answer.status in accepted:
                    return answer
                error = self.refused(answer, purpose, place)
            except WireFailure as failure:
                error = self.unreachable(failure, purpose)
            except Unreachable as unreachable:
                error = unreachable
            attempts.pause_or_raise(error)

    def refused(self, answer: Answer, purpose: str, place: Location | None) -> RegistryError:
        """The error for *answer*; the registry's wish to be left alone is heard for all requests to it."""
        who = f"registry {self.host}"
        if place is not None and place.origin != self.origin:
            who = f"storage host {place.origin} of {who}"
        error = refusal(answer, who, purpose)
        if error.retry_after and place is None:
            self.pace.slow_down(error.retry_after)
        return error

    def unreachable(self, failure: WireFailure, purpose: str) -> Unreachable:
        """The error for *failure*, with it as its cause."""
        who = f"registry {self.host}"
        if failure.host and failure.host not in (str(self.origin), self.host):
            who = f"{failure.host} for {who}"
        advice = f"; {failure.advice}" if failure.advice else ""
        error = Unreachable(
            f"cannot reach {who} to {purpose}: {failure.reason}{advice}",
            temporary=failure.temporary,
            retry_after=failure.retry_after,
        )
        error.__cause__ = failure
        return error


def registry_origin(host: str, options: RegistryOptions) -> Origin:
    """Where the API of the registry *host* is: HTTPS, except on loopback or where the user says otherwise."""
    name, port = (_HUB_API, "") if host == DOCKER_HUB else _split_port(host)
    plain = options.plain_http
    if plain is None:
        plain = name in ("localhost", "::1") or name.startswith("127.")
    scheme = "http" if plain else "https"
    return Origin(scheme, name, int(port) if port else {"http": 80, "https": 443}[scheme])


def _split_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    return name.strip("[]"), port
