"""Docker's `config.json` and podman's `auth.json`: which account, or which credential program, a registry
has there.

One broken entry loses only itself. Nothing here runs a program or logs a value.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry_client.reference import DOCKER_HUB, HUB_NAMES

_log = logging.getLogger(__name__)
_FILE_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are for one registry. Exactly one of password, identity token and registry token is set."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    origin: str = ""
    """Where it was found, for people."""


@dataclass(frozen=True, slots=True)
class AuthFile:
    """What one file says. Keys as written there."""

    path: Path
    accounts: Mapping[str, Account]
    store: str
    programs: Mapping[str, str]

    def account(self, host: str, repository: str) -> Account | None:
        """The account with the longest key that *host*`/`*repository* begins with."""
        name = f"{_canonical(host)}/{repository}"
        best: tuple[int, Account] | None = None
        for key, account in self.accounts.items():
            prefix = _canonical(key)
            if (name == prefix or name.startswith(prefix + "/")) and (best is None or len(prefix) > best[0]):
                best = (len(prefix), account)
        return best[1] if best else None

    def program(self, host: str) -> str | None:
        """The suffix of the `docker-credential-` program that *host* is assigned to by name."""
        return next(
            (name for key, name in self.programs.items() if _canonical(key) == _canonical(host)), None
        )


class AuthFileUnreadable(Exception):
    """There is no such file, or it says nothing; the message is why, without the path and what is in it."""


def load_auth_file(path: Path) -> AuthFile | None:
    """The file *path*; None when it is absent or unreadable as a whole (logged, never fatal: others may
    do).
    """
    try:
        return read_auth_file(path)
    except AuthFileUnreadable as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            _log.warning("cannot read credentials from %s: %s; it is skipped", path, error)
        return None


def read_auth_file(path: Path) -> AuthFile:
    """The file *path*.

    Raises:
        AuthFileUnreadable: it is absent, cannot be read, or is no JSON object.
    """
    try:
        with path.open("rb") as opened:
            document = json.loads(opened.read(_FILE_LIMIT))
    except OSError as error:
        raise AuthFileUnreadable((error.strerror or type(error).__name__).lower()) from error
    except (ValueError, RecursionError) as error:
        raise AuthFileUnreadable("it is not JSON") from error
    if not isinstance(document, dict):
        raise AuthFileUnreadable("it is not a JSON object")
    # The legacy ~/.dockercfg is the inner map alone.
    auths = document if path.name == ".dockercfg" else document.get("auths")
    store = document.get("credsStore")
    return AuthFile(
        path,
        _accounts(path, auths if isinstance(auths, dict) else {}),
        store if isinstance(store, str) else "",
        _strings(document.get("credHelpers")),
    )


def _accounts(path: Path, auths: dict[str, Any]) -> dict[str, Account]:
    accounts = {}
    for key, entry in auths.items():
        try:
            account = _account(entry, str(path))
        except (ValueError, TypeError, AttributeError, binascii.Error):
            _log.warning("the entry for %s in %s is malformed; it is skipped", key, path)
            continue
        if account is not None:
            accounts[key] = account
    return accounts


def _account(entry: Any, origin: str) -> Account | None:
    """One value of `auths`; None for an empty one, which only marks "look in the credential program"."""
    username = entry.get("username") or ""
    password = entry.get("password") or ""
    if entry.get("auth"):
        decoded = base64.b64decode(entry["auth"], validate=True).decode("utf-8")
        username, colon, password = decoded.partition(":")
        if not colon:
            raise ValueError("no colon")
    # containers-auth.json(5): some tools pad with NUL.
    password = password.rstrip("\0")
    identity = entry.get("identitytoken") or ""
    registry = entry.get("registrytoken") or ""
    if not all(isinstance(one, str) for one in (username, password, identity, registry)):
        raise TypeError("not a string")
    if registry:
        return Account(username, registry_token=registry, origin=origin)
    if identity:
        return Account(username, identity_token=identity, origin=origin)
    if username or password:
        return Account(username, password=password, origin=origin)
    return None


def _strings(document: object) -> dict[str, str]:
    if not isinstance(document, dict):
        return {}
    return {key: value for key, value in document.items() if isinstance(value, str)}


def _canonical(key: str) -> str:
    """*key* without scheme, API path and trailing slash; Docker Hub's names as one."""
    _, separator, rest = key.partition("://")
    if separator:
        key = rest.partition("/")[0]
    key = key.rstrip("/")
    host, slash, path = key.partition("/")
    return (DOCKER_HUB if host.lower() in HUB_NAMES else host.lower()) + slash + path
