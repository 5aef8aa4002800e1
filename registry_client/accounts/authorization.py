"""The Authorization header for one registry: learnt from its challenges, renewed before it expires.

One exchange at a time per scope; whoever comes meanwhile waits for it and gets its token or its failure, or
goes on with the old token while that is valid. Refusals are remembered for a moment, so that 64 readers do
not try a wrong password 64 times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from registry_client.accounts.auth_file import Account
from registry_client.accounts.bearer import Token, exchange
from registry_client.accounts.credentials import files_stamp, find_account
from registry_client.errors import RegistryError, Unauthorized
from registry_client.options import RegistryOptions
from registry_client.transport.challenge import Challenge, basic, parse_challenges, preferred
from registry_client.transport.connections import Origin, Pools
from registry_client.transport.deadline import Deadline
from registry_client.transport.wire import WireFailure

FAILURE_MEMORY = 5.0
"""Seconds for which a refused account is not tried again."""

GIVEN_TOKEN_LIFE = 300.0
"""Seconds for which a token found in a credentials file is used before the file is read again."""

Access = tuple[str, frozenset[str]]
"""What a scope is about, `repository:NAME`, and the actions on it."""


class Authorization:
    """Who we are at one registry for one repository; all methods from any thread."""

    def __init__(
        self, registry: Origin, host: str, repository: str, options: RegistryOptions, pools: Pools
    ) -> None:
        """*host* is the name accounts are kept under, *registry* where requests go."""
        self._registry = registry
        self._host = host
        self._repository = repository
        self._options = options
        self._pools = pools
        # Protects all below; held during an exchange and while accounts are looked up. Taken before any
        # pool's.
        self._lock = threading.Lock()
        self.account = ""
        """Whom we say to be, for people; "": nobody."""
        self._challenge: Challenge | None = None
        self._basic: str | None = None
        self._tokens: dict[str, Token] = {}
        self._asked: dict[str, frozenset[Access]] = {}  # by actions, what their token was asked for
        self._failure: tuple[float, str, tuple[object, ...]] | None = None  # when, what, by which files
        self._missed: tuple[float, RegistryError] | None = None  # when an exchange last brought nothing
        self._refused: tuple[float, str | None, tuple[object, ...]] | None = None
        self._no_post: set[Origin] = set()

    def header(self, actions: str, deadline: Deadline) -> str | None:
        """What to send for *actions* (`pull` or `pull,push`); None as long as the registry has asked for
        nothing.

        Raises:
            Unauthorized, ResponseInvalid, Unreachable: a token was due and could not be had.
        """
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self._basic
        now = time.monotonic()
        token = self._tokens.get(actions)
        if token is not None and token.fresh(now):
            return "Bearer " + token.value
        if token is not None and token.valid(now) and self._lock.locked():
            return "Bearer " + token.value
        with self._held(deadline) as came:
            return self._bearer(challenge, actions, token, came, deadline)

    def answer(
        self, headers: Sequence[str], used: str | None, actions: str, deadline: Deadline
    ) -> str | None:
        """What to send instead of *used*, which was answered with 401 and *headers*; None: there is
        nothing left.

        An empty string means: once more without any, to get the challenge for this.
        """
        challenge = preferred(parse_challenges(headers))
        if challenge is None:
            return None
        with self._held(deadline) as came:
            if challenge.scheme == "basic":
                if used is not None and used.startswith("Bearer "):
                    # Harbor answers an expired token with a Basic challenge; asked anonymously it names
                    # its realm.
                    self._tokens.pop(actions, None)
                    return ""
                return self._basic_header(challenge, used)
            self._challenge = challenge
            refused = self._tokens.get(actions)
            if refused is not None and used == "Bearer " + refused.value:
                if self._grants_too_little(refused, challenge, actions):
                    return None
                del self._tokens[actions]
            return self._bearer(challenge, actions, None, came, deadline)

    def ask_again(self, used: str | None, deadline: Deadline) -> str | None:
        """The account as it is now, if it differs from *used*: for registries that say 403 when it
        expired.
        """
        with self._held(deadline):
            return self._basic_header(Challenge("basic", {}), used)

    @contextmanager
    def _held(self, deadline: Deadline) -> Iterator[float]:
        """The lock; yields when it was asked for. Whoever has it may be waiting for a token server, so
        nobody waits beyond *deadline*.
        """
        came = time.monotonic()
        if not self._lock.acquire(timeout=max(deadline.remaining(), 0)):
            raise WireFailure("no credentials came in time")
        try:
            yield came
        finally:
            self._lock.release()

    def _basic_header(self, challenge: Challenge, used: str | None) -> str | None:
        if self._basic is not None and used != self._basic:
            return self._basic
        now = time.monotonic()
        stamp = files_stamp(self._options)
        if self._refused is not None:
            when, *what = self._refused
            if what == [used, stamp] and now - when < FAILURE_MEMORY:
                return None
        account = self._account()
        header = None
        if account is not None and not account.registry_token:
            header = basic(account.username, account.password or account.identity_token)
        if header is None or header == used:
            self._refused = (now, used, stamp)
            return None
        self._challenge, self._basic = challenge, header
        return header

    def _bearer(
        self, challenge: Challenge, actions: str, seen: Token | None, came: float, deadline: Deadline
    ) -> str:
        """Under the lock, waited for since *came*: what another thread got meanwhile, else a new token."""
        now = time.monotonic()
        token = self._tokens.get(actions)
        if token is not None and token is not seen and token.valid(now):
            return "Bearer " + token.value
        stamp = files_stamp(self._options)
        if self._failure is not None:
            when, said, by = self._failure
            if by == stamp and now - when < FAILURE_MEMORY:
                raise Unauthorized(said)
        if self._missed is not None and came < self._missed[0]:
            error = self._missed[1]
            raise type(error)(
                str(error), temporary=error.temporary, retry_after=error.retry_after
            ) from error
        account = self._account()
        if account is not None and account.registry_token:
            # Looked up again now and then, since nobody says when it expires.
            token = Token(account.registry_token, now, now + GIVEN_TOKEN_LIFE)
            self._tokens[actions] = token
            return "Bearer " + token.value
        scopes = self._scopes(challenge, actions)
        self._asked[actions] = frozenset(map(_access, scopes))
        try:
            token = exchange(
                challenge,
                scopes,
                account,
                self._registry,
                self._pools,
                deadline,
                self._no_post,
            )
        except Unauthorized as error:
            self._failure = (now, str(error), stamp)
            raise
        except RegistryError as error:
            self._missed = (time.monotonic(), error)
            raise
        self._failure = self._missed = None
        self._tokens[actions] = token
        return "Bearer " + token.value

    def _grants_too_little(self, token: Token, challenge: Challenge, actions: str) -> bool:
        """Whether the token server has just been asked for all this and granted less: it will again."""
        return (
            challenge.parameters.get("error") == "insufficient_scope"
            and self._asked.get(actions) == frozenset(map(_access, self._scopes(challenge, actions)))
            and time.monotonic() - token.issued < FAILURE_MEMORY
        )

    def _scopes(self, challenge: Challenge, actions: str) -> list[str]:
        """Ours, and what the registry asked for beyond it; its own first, since some servers read only
        one.
        """
        wanted = f"repository:{self._repository}:{actions}"
        ours, granted = _access(wanted)
        asked = challenge.parameters.get("scope", "").split()
        beyond = [
            one for one in dict.fromkeys(asked) if _access(one)[0] != ours or not _access(one)[1] <= granted
        ]
        return [*beyond, wanted]

    def _account(self) -> Account | None:
        found = find_account(self._host, self._repository, self._options)
        self.account = "" if found is None else f"account {found.username!r} (from {found.origin})"
        return found


def _access(scope: str) -> Access:
    """What *scope* is about. Actions come in any order: docker-registry takes another one each time."""
    what, _, actions = scope.rpartition(":")
    return what, frozenset(actions.split(","))
