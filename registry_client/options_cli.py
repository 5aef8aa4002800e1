"""The options every verb that talks to a registry has, as one click decorator that yields `RegistryOptions`.

Names mean what they mean in skopeo and podman, `--tls-verify=false` included. An account in an argument
is seen by every user of the machine until it is read here, so there are two ways around that.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from registry_client.options import CREDS_VARIABLE, RegistryOptions

_CREDS_LIMIT = 64 * 1024


def registry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --authfile, --creds, --tls-verify, --no-tls-verify and --plain-http to *command*.

    It is called with one argument for all of them: `registry`, a `RegistryOptions`.
    """

    @functools.wraps(command)
    def wrapper(
        *arguments: Any,
        authfile: Path | None,
        creds: str | None,
        tls_verify: bool,
        no_tls_verify: bool,
        plain_http: bool,
        **others: Any,
    ) -> Any:
        registry = RegistryOptions(
            plain_http=True if plain_http else None,
            tls_verify=tls_verify and not no_tls_verify,
            authfile=authfile,
            creds=read_creds(creds),
        )
        return command(*arguments, registry=registry, **others)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def read_creds(value: str | None) -> str | None:
    """`user:password` from *value* (itself, `env:NAME` or `file:PATH`), else from $NOPULL_CREDS; None if
    neither.

    Raises:
        click.BadParameter: the place holds no `user:password`.
    """
    if value is None:
        value = os.environ.get(CREDS_VARIABLE) or None
        if value is None:
            return None
        place = f"the variable {CREDS_VARIABLE}"
    elif value.startswith("env:"):
        place = f"the variable {value[4:]}"
        value = os.environ.get(value[4:], "")
    elif value.startswith("file:"):
        place = f"the file {value[5:]}"
        value = _first_line(Path(value[5:]))
    else:
        place = "its value"
        _hide(value.partition(":")[2])
    username, colon, _ = value.partition(":")
    if not username or not colon:
        raise click.BadParameter(f"{place} is not of the form user:password", param_hint="'--creds'")
    return value


def _hide(secret: str) -> None:
    """Overwrite *secret* in what other users see of our arguments: a mount's server keeps them for months."""
    import ctypes

    hidden = os.fsencode(secret)
    with suppress(OSError, ValueError, IndexError):
        # proc(5): the name in brackets may hold spaces; arg_start is field 48, the state after the name 3.
        start = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[48 - 3])
        shown = Path("/proc/self/cmdline").read_bytes()
        place = shown.find(hidden)
        while hidden and start and place >= 0:
            ctypes.memset(start + place, ord("x"), len(hidden))
            place = shown.find(hidden, place + len(hidden))


def _verdict(value: str) -> bool:
    """To be the `type` of an option."""
    if value.lower() not in ("true", "false"):
        raise click.BadParameter(
            f"{value!r} is neither true nor false; write --tls-verify=true, or leave it out"
        )
    return value.lower() == "true"


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as opened:
            return opened.read(_CREDS_LIMIT).partition("\n")[0].strip("\r")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.BadParameter(f"cannot read {path}: {why}", param_hint="'--creds'") from error


_OPTIONS = (
    click.option(
        "--authfile",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Credentials file to use instead of docker's config.json and podman's auth.json.",
    ),
    click.option(
        "--creds",
        metavar="USER:PASSWORD",
        help="Account for the registry. Other users can see arguments for a moment: prefer env:NAME, "
        f"file:PATH, or the variable {CREDS_VARIABLE}.",
    ),
    click.option(
        "--tls-verify",
        type=_verdict,
        is_eager=True,  # its value may be the image, which would be called missing
        is_flag=False,
        flag_value="true",
        default="true",
        metavar="[BOOL]",
        help="Check certificates (the default); --tls-verify=false is the same as --no-tls-verify.",
    ),
    click.option(
        "--no-tls-verify",
        is_flag=True,
        help="Accept any certificate.",
    ),
    click.option(
        "--plain-http",
        is_flag=True,
        help="Talk HTTP instead of HTTPS. Registries on loopback addresses need no option for that.",
    ),
)
