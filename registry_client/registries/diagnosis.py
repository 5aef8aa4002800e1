"""What happens when we talk to a registry, step by step, for people: `nopull explain --registry HOST`.

Says which place gave which account, which mirrors and proxies are in the way, and what each end answered.
Never says a secret: of an account the user name and the place it was found, of a token nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from registry_client.accounts.auth_file import Account, AuthFileUnreadable, read_auth_file
from registry_client.accounts.credentials import creds_origin, find_account, usual_files
from registry_client.digest import shorten
from registry_client.errors import ReferenceInvalid, RegistryError
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.registries.endpoint import PLAIN_HEADERS
from registry_client.registries.hosts_file import find_directory, read_sites
from registry_client.transport.challenge import Challenge, basic, parse_challenges, preferred
from registry_client.transport.connections import Pools, proxy_to
from registry_client.transport.deadline import Deadline
from registry_client.transport.site import Site
from registry_client.transport.wire import WireFailure

_ANY_REPOSITORY = "nopull/any"
_PATIENCE = 10.0
_USABLE = frozenset({200, 404})  # 404: no repository of that name, and nobody refuses to look for it


def diagnose(name: str, options: RegistryOptions) -> dict[str, Any]:
    """Facts about the registry of *name*: a host, or an image there (then for its repository).

    Raises:
        ReferenceInvalid: it is neither. Everything else that goes wrong is a fact.
    """
    plain = name.removeprefix("docker://")
    if not plain:
        raise ReferenceInvalid(f"{name!r} is not a registry: expected HOST or HOST:PORT")
    whole = "/" in plain.rstrip("/")
    text = plain if whole else f"{plain.rstrip('/')}/{_ANY_REPOSITORY}"
    reference = parse_reference(f"docker://{text}")
    if not whole and reference.host != plain.rstrip("/").lower() and "." not in plain:
        raise ReferenceInvalid(f"{shorten(name)!r} is not a registry: expected HOST or HOST:PORT")
    host, repository = reference.host, reference.repository
    directory = find_directory(host, options)
    sites = read_sites(directory, host, options)
    return {
        "registry": host,
        "repository": repository if whole else None,
        "mirrors_from": str(directory) if directory else None,
        "credentials": list(_places(host, repository, options)),
        "ways": [
            _way(
                site,
                host if site is sites[-1] else str(site.origin),
                repository if whole else None,
                options,
                mirror=site is not sites[-1],
            )
            for site in sites
        ],
    }


def diagnosis_lines(facts: dict[str, Any]) -> Iterator[str]:
    """The facts of `diagnose` for people."""
    yield f"registry {facts['registry']}" + (
        f", repository {facts['repository']}" if facts["repository"] else ""
    )
    yield f"mirrors  {'as in ' + facts['mirrors_from'] if facts['mirrors_from'] else 'none configured'}"
    yield "accounts looked for, in this order"
    for place in facts["credentials"]:
        yield f"         {place['place']}: {place['found']}"
    for way in facts["ways"]:
        yield f"{'mirror  ' if way['mirror'] else 'registry'} {way['url']}"
        if way["proxy"]:
            yield f"         through the proxy {way['proxy']}"
        yield f"         account: {way['account']}"
        for step in way["steps"]:
            yield f"         {step}"
        yield f"         {'usable' if way['usable'] else 'NOT usable'}"


def _places(host: str, repository: str, options: RegistryOptions) -> Iterator[dict[str, str]]:
    if options.creds is not None:
        yield {
            "place": creds_origin(options),
            "found": f"user {options.creds.partition(':')[0]!r}; nothing else is asked",
        }
        return
    for path in [options.authfile] if options.authfile is not None else usual_files(options):
        try:
            file = read_auth_file(path)
        except AuthFileUnreadable as error:
            yield {"place": str(path), "found": f"nothing: {error}"}
            continue
        found = []
        program = file.program(host)
        if program:
            found.append(f"assigns this host to the program docker-credential-{program}")
        account = file.account(host, repository)
        if account is not None:
            found.append(f"has user {account.username!r} ({_kind(account)})")
        if file.store:
            found.append(f"leaves what it lacks to the program docker-credential-{file.store}")
        yield {"place": str(path), "found": "; ".join(found) or "nothing for this host"}


def _way(
    site: Site, host: str, repository: str | None, options: RegistryOptions, *, mirror: bool
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "url": f"{site.origin.scheme}://{site.origin}{site.prefix}/",
        "mirror": mirror,
        "proxy": None,
        "account": "none: anonymous",
        "steps": [],
        "answered": False,
        "usable": False,
    }
    if mirror:
        from dataclasses import replace

        options = replace(options, creds=None)
    pools = Pools(options, trusts={site.origin: site.trust} if site.trust is not None else None)
    try:
        proxy = proxy_to(site.origin, options)
        facts["proxy"] = f"{proxy.host}:{proxy.port}" if proxy else None
        account = find_account(host, repository or _ANY_REPOSITORY, options)
        if account is not None:
            facts["account"] = f"user {account.username!r} ({_kind(account)}), from {account.origin}"
        for step, usable in _talk(site, repository, account, options, pools):
            facts["answered"] = True
            facts["steps"].append(step)
            facts["usable"] = usable
    except RegistryError as error:
        facts["steps"].append(str(error))
    except WireFailure as failure:
        who = f"{failure.host}: " if failure.host and failure.host != str(site.origin) else ""
        advice = f"; {failure.advice}" if failure.advice else ""
        facts["steps"].append(f"no answer: {who}{failure.reason}{advice}")
    finally:
        pools.close()
    return facts


def _talk(
    site: Site, repository: str | None, account: Account | None, options: RegistryOptions, pools: Pools
) -> Iterator[tuple[str, bool]]:
    """Each step once it was answered, and whether reading works as far as is known by then.

    Raises:
        WireFailure, RegistryError: there it ended.
    """
    from registry_client.accounts.bearer import exchange

    deadline = Deadline(min(_PATIENCE, options.timeout))
    suffix = f"?ns={site.namespace}" if site.namespace else ""
    target = f"{site.prefix}/{repository}/tags/list{suffix}" if repository else f"{site.prefix}/{suffix}"
    headers = {**PLAIN_HEADERS, **dict(site.headers)}
    started = time.monotonic()
    answer = pools.at(site.origin).send("GET", target, headers, deadline)
    took = (time.monotonic() - started) * 1000
    yield f"asked without an account: {answer.status} after {took:.0f} ms", answer.status in _USABLE
    challenge = preferred(parse_challenges(answer.headers.getlist("WWW-Authenticate")))
    answer.text()
    if answer.status != 401:
        return
    if challenge is None:
        yield "it does not say how to authenticate", False
        return
    if challenge.scheme == "bearer":
        yield f"it wants a token from {shorten(challenge.parameters['realm'].partition('?')[0])}", False
        if account is not None and account.registry_token:
            header = "Bearer " + account.registry_token
            yield "the account is a token itself, sent as it is", False
        else:
            scopes = [f"repository:{repository}:pull"] if repository else _scopes(challenge)
            token = exchange(challenge, scopes, account, site.origin, pools, deadline)
            yield f"the token server gave a token, good for {token.expires - token.issued:.0f} s", False
            header = "Bearer " + token.value
    else:
        yield "it wants user and password", False
        if account is None:
            yield "there is no account to show: log in with docker login, or give --creds", False
            return
        header = basic(account.username, account.password or account.identity_token)
    answer = pools.at(site.origin).send("GET", target, {**headers, "Authorization": header}, deadline)
    yield f"asked with that: {answer.status}", answer.status in _USABLE
    answer.text()


def _scopes(challenge: Challenge) -> list[str]:
    return challenge.parameters.get("scope", "").split()


def _kind(account: Account) -> str:
    if account.registry_token:
        return "a registry token"
    return "an identity token" if account.identity_token else "a password"
