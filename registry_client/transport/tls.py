"""TLS settings: one context per set of options, built when the first HTTPS connection needs it.

Building one parses the machine's whole certificate bundle (tens of milliseconds), so plain HTTP never
gets here. Files are looked at again for each connection: certificates are renewed while mounts live.
"""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import NamedTuple

from registry_client.errors import Unreachable


class Trust(NamedTuple):
    """Whom to believe at one origin, and how to prove who we are there (PEM files)."""

    verify: bool = True
    authorities: tuple[Path, ...] = ()
    """Trusted in addition to the system's."""
    client: tuple[tuple[Path, Path | None], ...] = ()
    """Certificates and their keys; None: the key is in the same file."""


def context(trust: Trust) -> ssl.SSLContext:
    """The context for connections that trust *trust*.

    Raises:
        Unreachable: a file cannot be read.
    """
    files = [*trust.authorities, *(one for pair in trust.client for one in pair if one is not None)]
    return _build(trust, tuple(_stamp(file) for file in files))


@functools.lru_cache(maxsize=16)
def _build(trust: Trust, stamps: tuple[int, ...]) -> ssl.SSLContext:
    built = ssl.create_default_context()
    built.minimum_version = ssl.TLSVersion.TLSv1_2
    if not trust.verify:
        built.check_hostname = False
        built.verify_mode = ssl.CERT_NONE
    file: Path | None = None
    try:
        for file in trust.authorities:
            built.load_verify_locations(cafile=file)
        for file, key in trust.client:
            built.load_cert_chain(file, key)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(file, error) from error
    return built


def _stamp(file: Path) -> int:
    try:
        return os.stat(file).st_mtime_ns  # noqa: PTH116 - for each connection, and four times as fast
    except OSError as error:
        raise _unusable(file, error) from error


def _unusable(file: Path | None, error: Exception) -> Unreachable:
    return Unreachable(f"cannot use {file} as certificate authority: {error}", temporary=False)
