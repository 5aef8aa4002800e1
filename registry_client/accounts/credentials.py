"""Where accounts come from, asked again whenever one is needed: a file may have been replaced weeks after
the start.

Order: `--creds`; then `--authfile` alone if given; else `$REGISTRY_AUTH_FILE`, docker's `config.json`,
podman's `auth.json`, `~/.dockercfg`. Within a file: the program assigned to the host, the entry, the
program for all.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from registry_client.accounts.auth_file import (
    Account,
    AuthFile,
    AuthFileUnreadable,
    load_auth_file,
    read_auth_file,
)
from registry_client.errors import Unauthorized
from registry_client.options import CREDS_VARIABLE, RegistryOptions
from registry_client.reference import DOCKER_HUB

_log = logging.getLogger(__name__)
PROGRAM_TIMEOUT = 15.0
"""Seconds a credential program may take: a locked keyring or an absent metadata server hangs for ever."""
_PROGRAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = "credentials not found"  # docker-credential-helpers, credentials/error.go; said on stdout


def find_account(host: str, repository: str, options: RegistryOptions) -> Account | None:
    """The account for *repository* at *host*; None: be anonymous. Reads files, may run a program (15 s at
    most).

    Raises:
        Unauthorized: the file or account named by the user cannot be used.
    """
    if options.creds is not None:
        username, colon, password = options.creds.partition(":")
        if not colon or not username:
            raise Unauthorized("the account given for the registry is not of the form user:password")
        return Account(username, password=password, origin=creds_origin(options))
    for file in _auth_files(options):
        account = _account_of(file, host, repository)
        if account is not None:
            return account
    return None


def creds_origin(options: RegistryOptions) -> str:
    """Where the account in `options.creds` was given, for people."""
    return f"${CREDS_VARIABLE}" if os.environ.get(CREDS_VARIABLE) == options.creds else "--creds"


def _auth_files(options: RegistryOptions) -> Iterator[AuthFile]:
    if options.authfile is not None:
        try:
            yield read_auth_file(options.authfile)
        except AuthFileUnreadable as error:
            raise Unauthorized(f"cannot read credentials from {options.authfile}: {error}") from error
        return
    for path in usual_files(options):
        file = load_auth_file(path)
        if file is not None:
            yield file


def files_stamp(options: RegistryOptions) -> tuple[object, ...]:
    """Changes when one of the files that accounts come from may have."""
    found: list[object] = []
    for path in [options.authfile] if options.authfile is not None else usual_files(options):
        try:
            seen = path.stat()
        except OSError:
            continue
        found += (path, seen.st_mtime_ns, seen.st_ino, seen.st_size)
    return tuple(found)


def usual_files(options: RegistryOptions) -> list[Path]:
    """The files looked at when the user names none, in order; they need not exist."""
    environment = options.variables
    home = Path(environment.get("HOME") or "/nonexistent")
    found = []
    if environment.get("REGISTRY_AUTH_FILE"):
        found.append(Path(environment["REGISTRY_AUTH_FILE"]))
    docker = environment.get("DOCKER_CONFIG")
    found.append((Path(docker) if docker else home / ".docker") / "config.json")
    if environment.get("XDG_RUNTIME_DIR"):
        found.append(Path(environment["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    configuration = environment.get("XDG_CONFIG_HOME")
    found.append((Path(configuration) if configuration else home / ".config") / "containers" / "auth.json")
    found.append(home / ".dockercfg")
    return list(dict.fromkeys(found))


def _account_of(file: AuthFile, host: str, repository: str) -> Account | None:
    assigned = file.program(host)
    if assigned:
        account = _ask_program(assigned, host)
        if account is not None:
            return account
    account = file.account(host, repository)
    if account is None and file.store:
        account = _ask_program(file.store, host)
    return account


def _ask_program(name: str, host: str) -> Account | None:
    """What `docker-credential-NAME get` says; None when it knows nothing or fails (logged without its
    output).
    """
    import subprocess

    if not _PROGRAM_NAME.fullmatch(name):
        _log.warning("%r is not the name of a credential program; it is skipped", name[:40])
        return None
    program = f"docker-credential-{name}"
    server = "https://index.docker.io/v1/" if host == DOCKER_HUB else host
    try:
        # A session of its own: programs are often scripts, and what those started has to end with them.
        running = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except FileNotFoundError:
        _log.warning("the credential program %s is not on the PATH; it is skipped", program)
        return None
    except OSError as error:
        _log.warning("cannot run %s: %s", program, error.strerror)
        return None
    with running:
        try:
            said, _ = running.communicate(server.encode(), timeout=PROGRAM_TIMEOUT)
        except subprocess.TimeoutExpired:
            _log.warning("%s did not answer within %g s; it was stopped", program, PROGRAM_TIMEOUT)
            return None
        finally:
            if running.returncode is None:
                os.killpg(running.pid, signal.SIGKILL)
    if running.returncode != 0:
        if _NOT_FOUND not in said.decode("utf-8", "replace"):
            _log.warning("%s failed with exit code %d; it is skipped", program, running.returncode)
        return None
    try:
        answer = json.loads(said)
        username, secret = answer["Username"], answer["Secret"]
        if not isinstance(username, str) or not isinstance(secret, str):
            raise TypeError("not a string")
    except (ValueError, KeyError, TypeError):
        _log.warning("%s did not answer with an account; it is skipped", program)
        return None
    if not secret:
        return None
    # docker-credential-helpers README: this user name marks a refresh token.
    if username in ("<token>", ""):
        return Account("<token>", identity_token=secret, origin=program)
    return Account(username, password=secret, origin=program)
