"""Tokens: exchanged for an account at the place a Bearer challenge names (distribution's `token.md`,
`oauth.md`).

Only the exchange and the rules for *where* an account may be sent; keeping tokens is `authorization`'s.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

from registry_client.accounts.auth_file import Account
from registry_client.digest import shorten
from registry_client.errors import RegistryError, ResponseInvalid, Unauthorized, Unreachable
from registry_client.transport.answer import Answer
from registry_client.transport.challenge import Challenge, basic
from registry_client.transport.connections import ConnectionPool, Pools
from registry_client.transport.deadline import Deadline
from registry_client.transport.origin import DEFAULT_PORTS, Origin
from registry_client.transport.retrying import parse_retry_after
from registry_client.transport.wire import CLIENT_ID, WireFailure

DEFAULT_LIFE = 60.0
"""Seconds a token without `expires_in` lives (token.md); GHCR sends none."""
_TOKEN_ANSWER = 256 * 1024  # tokens of several KB occur; ggcr stops at 64 KiB
_NO_POST = frozenset({400, 401, 404, 405})  # ACR, Artifactory, GCR and others answer a POST with these


@dataclass(frozen=True, slots=True)
class Token:
    """A Bearer token. Times are seconds on the monotonic clock, counted from before it was asked for."""

    value: str = field(repr=False)
    issued: float
    expires: float

    def fresh(self, now: float) -> bool:
        """Whether there is no need to think of the next one: some life is left beyond what a call takes."""
        return now < self.expires - min(30.0, (self.expires - self.issued) / 4)

    def valid(self, now: float) -> bool:
        return now < self.expires


def exchange(
    challenge: Challenge,
    scopes: Sequence[str],
    account: Account | None,
    registry: Origin,
    pools: Pools,
    deadline: Deadline,
    no_post: set[Origin] | None = None,
) -> Token:
    """A token for *scopes*, for *account* or, if None, for anybody. It may grant less than asked.

    *no_post* remembers token servers that want a GET.

    Raises:
        Unauthorized: the token server refuses the account.
        ResponseInvalid: the challenge or the answer makes no sense, or the account must not be sent there.
        Unreachable: the token server does not answer.
    """
    origin, target = _realm(challenge.parameters["realm"], registry)
    fields = {"service": challenge.parameters.get("service", ""), "client_id": CLIENT_ID}
    fields = {name: value for name, value in fields.items() if value}
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": CLIENT_ID}
    started = time.monotonic()
    try:
        answer = _ask(pools.at(origin), target, headers, fields, scopes, account, deadline, no_post)
        return _token(answer, answer.read_all(_TOKEN_ANSWER), started, origin, account)
    except WireFailure as failure:
        raise Unreachable(
            f"cannot get a token for {registry} from {origin}: {failure.reason}", temporary=failure.temporary
        ) from failure


def _ask(
    pool: ConnectionPool,
    target: str,
    headers: dict[str, str],
    fields: dict[str, str],
    scopes: Sequence[str],
    account: Account | None,
    deadline: Deadline,
    no_post: set[Origin] | None,
) -> Answer:
    if account is not None and account.identity_token and pool.origin not in (no_post or ()):
        form = {**fields, "grant_type": "refresh_token", "refresh_token": account.identity_token}
        body = urlencode({**form, "scope": " ".join(scopes)}).encode()
        form_headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        answer = pool.send("POST", target, form_headers, deadline, body)
        if answer.status not in _NO_POST:
            return answer
        answer.text()
        if no_post is not None:
            no_post.add(pool.origin)
    if account is not None:
        headers["Authorization"] = basic(account.username, account.password or account.identity_token)
    pairs = [*fields.items(), *(("scope", scope) for scope in scopes)]
    query = urlencode(pairs, quote_via=quote, safe=":/,")
    return pool.send("GET", f"{target}{'&' if '?' in target else '?'}{query}", headers, deadline)


def _token(answer: Answer, body: bytes, started: float, origin: Origin, account: Account | None) -> Token:
    status = answer.status
    if status in (401, 403):
        who = f"the account {account.username!r} (from {account.origin})" if account else "anonymous access"
        raise Unauthorized(
            f"token server {origin} refuses {who}: {status}; log in again or give another account"
        )
    if status == 429 or status >= 500:
        raise Unreachable(
            f"token server {origin} answered {status}; try again later",
            retry_after=parse_retry_after(answer.headers.get("Retry-After")),
        )
    if status != 200:
        raise ResponseInvalid(f"token server {origin} answered {status}, expected 200 and a token")
    try:
        document = json.loads(body)
        value = document.get("token") or document.get("access_token")
        life = document.get("expires_in", 0)
    except (ValueError, RecursionError, AttributeError) as error:
        raise ResponseInvalid(f"token server {origin} answered something that is not JSON") from error
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise ResponseInvalid(f"token server {origin} answered without a token")
    if not isinstance(life, (int, float)) or isinstance(life, bool) or not 0 < life < 1e9:
        life = DEFAULT_LIFE
    # The server's `issued_at` needs its clock to agree with ours; the moment before asking errs on the
    # safe side.
    return Token(value, started, started + life)


def _realm(realm: str, registry: Origin) -> tuple[Origin, str]:
    """Where a token is asked for; refuses places an account must not travel to."""
    try:
        parts = urlsplit(realm)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise _refused(realm, registry, "it is not a URL") from error
    host = parts.hostname or ""
    if (
        parts.scheme not in ("http", "https")
        or not host
        or any(ord(one) <= 32 or ord(one) > 126 for one in realm)
    ):
        raise _refused(realm, registry, "it is not an http or https URL")
    if parts.scheme == "http" and registry.scheme != "http":
        raise _refused(realm, registry, "an account would travel unencrypted")
    if is_internal(host) and not (host == registry.host or is_internal(registry.host)):
        raise _refused(realm, registry, "it is an internal address of another host")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(parts.scheme, host, port), target


def is_internal(host: str) -> bool:
    """Whether *host* is `localhost` or an address of a private, loopback or link-local network."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_private or address.is_loopback or address.is_link_local


def _refused(realm: str, registry: Origin, why: str) -> RegistryError:
    shown = shorten(realm.partition("?")[0].rpartition("@")[2])
    return ResponseInvalid(
        f"registry {registry} names {shown!r} as its token server, which is refused: {why}"
    )
