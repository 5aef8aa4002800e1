"""One repository at one registry: where its API is, who we are there, and how its failures read.

Sends authorised requests, follows redirects by hand (credentials stay with the registry), retries what is
temporary. Ranges of blobs have their own loop in `blob_reader`; what has a body is sent by `uploads`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry_client.errors import RegistryError, ResponseInvalid, Unreachable
from registry_client.manifest import MANIFEST_LIMIT
from registry_client.options import RegistryOptions
from registry_client.reference import Reference
from registry_client.transport.answer import Answer
from registry_client.transport.connections import Pools
from registry_client.transport.deadline import Deadline
from registry_client.transport.redirect import HOPS, STATUSES, Location, parse_location
from registry_client.transport.retrying import ASKING_ATTEMPTS, Attempts, Pace
from registry_client.transport.site import Site, registry_site
from registry_client.transport.wire import CLIENT_ID, Counters, WireFailure

if TYPE_CHECKING:
    from registry_client.accounts.authorization import Authorization
    from registry_client.transport.tls import Trust

# A front end that compresses on the fly would make offsets and digests those of other bytes.
PLAIN_HEADERS: Mapping[str, str] = {"User-Agent": CLIENT_ID, "Accept-Encoding": "identity"}
_OK = frozenset({200})
_EXPIRED_WORDS = "token has expired"  # ECR says so with a 403 and no challenge


class Endpoint:
    """All methods from any thread."""

    def __init__(
        self,
        reference: Reference,
        options: RegistryOptions,
        site: Site | None = None,
        counters: Counters | None = None,
        *,
        mirror: bool = False,
    ) -> None:
        """*site*: where to ask, if not where the name says; a *mirror* has accounts of its own."""
        if site is None:
            site = registry_site(reference.host, options)
        self.repository = reference.repository
        self.options = options
        self.origin = site.origin
        self.host = str(site.origin) if mirror else reference.host
        self.label = f"mirror {self.host} of {reference.host}" if mirror else f"registry {reference.host}"
        """What it is called in messages."""
        self.attempts = 1 if mirror else ASKING_ATTEMPTS
        """At requests a person waits for; a mirror's second attempt is the next way."""
        self.pools = Pools(options, counters, {site.origin: site.trust} if site.trust is not None else None)
        self._root = f"{site.prefix}/{reference.repository}"
        self._suffix = f"?ns={site.namespace}" if site.namespace else ""
        self._ping = f"{site.prefix}/{self._suffix}"
        self._extra = dict(site.headers)
        self.pace = Pace()
        self._pool = self.pools.at(self.origin)
        self._lock = threading.Lock()  # protects making _authorization; nothing else is taken under it
        self._authorization: Authorization | None = None

    @property
    def authorization(self) -> Authorization:
        """Who we are here; made when the registry first asks, since many never do."""
        with self._lock:
            if self._authorization is None:
                from registry_client.accounts.authorization import Authorization

                self._authorization = Authorization(
                    self.origin, self.host, self.repository, self.options, self.pools
                )
            return self._authorization

    @property
    def account(self) -> str:
        """Whom we say to be, for people: name and where that is from; "" as long as that is nobody."""
        return self._authorization.account if self._authorization else ""

    def credentials(self, actions: str, deadline: Deadline) -> str | None:
        """The Authorization header for *actions*; None as long as the registry has asked for none.

        Raises:
            Unauthorized, ResponseInvalid, Unreachable: a token was due and could not be had.
        """
        return self._authorization.header(actions, deadline) if self._authorization else None

    def path(self, kind: str, name: str) -> str:
        """The API path of a manifest or blob of this repository."""
        return f"{self._root}/{kind}/{name}{self._suffix}"

    def answers(self) -> bool:
        """Whether something answers here at all, be it with a refusal."""
        deadline = Deadline(self.options.stall_timeout, self.pools.closing)
        try:
            answer = self._pool.send("GET", self._ping, {**PLAIN_HEADERS, **self._extra}, deadline)
        except (WireFailure, RegistryError):
            return False
        answer.text()
        return answer.status < 500 and answer.status != 429

    def deadline(self) -> Deadline:
        return Deadline(self.options.timeout, self.pools.closing)

    @property
    def trust(self) -> Trust:
        """Whom to believe at this origin."""
        return self._pool.trust()

    @property
    def bound(self) -> int:
        """How many connections here are allowed at the moment."""
        return self._pool.bound

    def warm(self, connections: int) -> None:
        self._pool.warm(connections)

    def close(self) -> None:
        """End all that is under way."""
        self.pools.close()

    def retire(self) -> None:
        """Start nothing new; what is under way may end well."""
        self.pools.close(abort=False)

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
            if self._extra:
                sent = {**sent, **self._extra}
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
                raise ResponseInvalid(f"{self.label} redirects more than {HOPS} times")
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
        attempts = Attempts(deadline, self.attempts)
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

    def read_document(
        self,
        target: str,
        headers: Mapping[str, str],
        purpose: str,
        deadline: Deadline,
        accepted: frozenset[int] = _OK,
    ) -> tuple[Answer, bytes]:
        """The answer to a GET of *target* with a status in *accepted*, and its whole body; b"" unless the
        status is 200. A body that breaks off is read again from its start.

        Raises:
            NotFound, Unauthorized, Unreachable, ResponseInvalid: as `ask`; Unreachable also for a body of
            more than `MANIFEST_LIMIT` bytes.
        """
        attempts = Attempts(deadline, self.attempts)
        while True:
            answer = self.ask("GET", target, headers, "pull", purpose, accepted, deadline)
            if answer.status != 200:
                answer.text()
                return answer, b""
            try:
                return answer, answer.read_all(MANIFEST_LIMIT)
            except WireFailure as failure:
                attempts.pause_or_raise(self.unreachable(failure, purpose))

    def refused(self, answer: Answer, purpose: str, place: Location | None) -> RegistryError:
        """The error for *answer*; the registry's wish to be left alone is heard for all requests to it."""
        who = self.label
        if place is not None and place.origin != self.origin:
            who = f"storage host {place.origin} of {who}"
        from registry_client.transport.refusal import refusal

        error = refusal(answer, who, purpose, self.account if who == self.label else "")
        error.blame = answer.headers.get("X-Dragonfly-Error-Type", "")
        if error.retry_after and place is None:
            self.pace.slow_down(error.retry_after)
        return error

    def unreachable(self, failure: WireFailure, purpose: str) -> Unreachable:
        """The error for *failure*, with it as its cause."""
        who = self.label
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
