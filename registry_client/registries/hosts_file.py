"""containerd's `certs.d/<host>/hosts.toml`: where else a registry's content is served, and with what trust.

Read again whenever it changed: a node's mirrors come and go while mounts live. What is wrong in one entry
loses that entry and is logged; nothing here connects anywhere.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from registry_client.options import RegistryOptions
from registry_client.reference import DOCKER_HUB
from registry_client.transport.origin import DEFAULT_PORTS, Origin
from registry_client.transport.site import Site, is_loopback, registry_site, split_port
from registry_client.transport.tls import Trust

_log = logging.getLogger(__name__)
_FILE = "hosts.toml"
_LIMIT = 1024 * 1024
_CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class _Wrong(ValueError):
    """What an entry says makes no sense."""


def find_directory(host: str, options: RegistryOptions) -> Path | None:
    """The directory that speaks of *host*, in containerd's order; None: there is none."""
    top = Path(options.mirrors_directory)
    name, port = split_port(host)
    names = [f"{name}_{port}_", host] if port else [host]
    for one in (*names, "_default"):
        if os.path.isdir(top / one):  # noqa: PTH112 - on the way to each mount, and it must not raise
            return top / one
    return None


def stamp(directory: Path | None) -> tuple[object, ...]:
    """Changes when something in *directory* may have."""
    if directory is None:
        return ()
    found: list[object] = [directory]
    for path in (directory, directory / _FILE):
        try:
            seen = os.stat(path)  # noqa: PTH116 - once a second while something is read
        except OSError:
            continue
        found += (seen.st_mtime_ns, seen.st_ino, seen.st_size)
    return tuple(found)


def read_sites(directory: Path | None, host: str, options: RegistryOptions) -> tuple[Site, ...]:
    """Where to ask for what *host* has, in order; the registry itself is always the last."""
    own = registry_site(host, options)
    if directory is None:
        return (own,)
    try:
        with (directory / _FILE).open("rb") as opened:
            document = tomllib.loads(opened.read(_LIMIT).decode("utf-8"))
    except FileNotFoundError:
        return (_with_docker_files(own, directory, options),)
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("cannot read %s: %s; no mirror is used", directory / _FILE, error)
        return (own,)
    mirrors = [
        site for url, entry in _tables(document) if (site := _mirror(url, entry, host, directory, options))
    ]
    try:
        own = _own(document, own, host, directory, options)
    except _Wrong as error:
        _log.warning("%s: server: %s; it is passed over", directory / _FILE, error)
    # An entry that names the registry itself says where in the order it stands, and how to reach it.
    for number, site in enumerate(mirrors):
        if site.origin == own.origin and site.prefix == own.prefix:
            return (*mirrors[:number], site._replace(namespace="", pull=True, resolve=True))
    return (*mirrors, own)


def _tables(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    hosts = document.get("host")
    for url, entry in (hosts if isinstance(hosts, dict) else {}).items():
        if isinstance(entry, dict):
            yield url, entry


def _mirror(
    url: str, entry: Mapping[str, Any], host: str, directory: Path, options: RegistryOptions
) -> Site | None:
    try:
        return _site(url, entry, host, directory, options)
    except _Wrong as error:
        _log.warning("%s: %s: %s; it is passed over", directory / _FILE, url.rpartition("@")[2], error)
        return None


def _own(
    document: Mapping[str, Any], own: Site, host: str, directory: Path, options: RegistryOptions
) -> Site:
    server = document.get("server")
    if server is None:
        keys = ("ca", "client", "skip_verify", "header", "dial_timeout")
        if not any(key in document for key in keys):
            return own
        server = f"{own.origin.scheme}://{own.origin}"
    if not isinstance(server, str):
        raise _Wrong("it is no URL")
    site = _site(
        server, {key: value for key, value in document.items() if key != "host"}, host, directory, options
    )
    return site._replace(pull=True, resolve=True)


def _site(url: str, entry: Mapping[str, Any], host: str, directory: Path, options: RegistryOptions) -> Site:
    origin, path = _place(url)
    capabilities = entry.get("capabilities")
    if capabilities is None:
        allowed = _CAPABILITIES
    elif isinstance(capabilities, list) and all(isinstance(one, str) for one in capabilities):
        allowed = frozenset(capabilities)
    else:
        raise _Wrong("capabilities is no list of words")
    own = registry_site(host, options).origin
    return Site(
        origin=origin,
        prefix=path if entry.get("override_path") is True else f"{path}/v2",
        namespace="" if origin[1:] == own[1:] or host == DOCKER_HUB == origin.host else host,
        headers=tuple(_headers(entry.get("header"))),
        pull="pull" in allowed,
        resolve="resolve" in allowed,
        trust=_trust(entry, directory, options),
        dial_timeout=_seconds(entry.get("dial_timeout")),
    )


def _place(url: str) -> tuple[Origin, str]:
    text = url if "://" in url else ("http://" if is_loopback(split_port(url)[0]) else "https://") + url
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        port, parts = None, urlsplit("")
    if port is None or not parts.hostname or parts.username is not None or parts.query:
        raise _Wrong("expected a URL such as https://mirror.example:5000")
    return Origin(parts.scheme, parts.hostname, port), parts.path.rstrip("/")


def _headers(table: object) -> Iterator[tuple[str, str]]:
    for name, values in (table if isinstance(table, dict) else {}).items():
        listed = values if isinstance(values, list) else [values]
        if not all(isinstance(one, str) and one.isascii() and one.isprintable() for one in listed):
            raise _Wrong(f"header {name} has a value that cannot be sent")
        yield name, ", ".join(listed)


def _trust(entry: Mapping[str, Any], directory: Path, options: RegistryOptions) -> Trust | None:
    if not any(key in entry for key in ("ca", "client", "skip_verify")):
        return None
    authorities = [directory / one for one in _texts(entry.get("ca"), "ca")]
    client: list[tuple[Path, Path | None]] = []
    listed = entry.get("client")
    for one in listed if isinstance(listed, list) else [] if listed is None else [listed]:
        pair = _texts(one, "client")
        if not 1 <= len(pair) <= 2:
            raise _Wrong("client is no certificate with its key")
        client.append((directory / pair[0], directory / pair[1] if len(pair) == 2 and pair[1] else None))
    verify = options.tls_verify and entry.get("skip_verify") is not True
    return Trust(verify, tuple(authorities), tuple(client))


def _with_docker_files(own: Site, directory: Path, options: RegistryOptions) -> Site:
    """Docker's layout, which containerd reads as well: `*.crt` to trust, `*.cert` and `*.key` to show."""
    authorities = tuple(sorted(directory.glob("*.crt")))
    client = tuple((one, one.with_suffix(".key")) for one in sorted(directory.glob("*.cert")))
    if not authorities and not client:
        return own
    return own._replace(trust=Trust(options.tls_verify, authorities, client))


def _texts(value: object, name: str) -> list[str]:
    listed: list[object] = value if isinstance(value, list) else [] if value is None else [value]
    texts = [one for one in listed if isinstance(one, str)]
    if len(texts) < len(listed):
        raise _Wrong(f"{name} is no list of files")
    return texts


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    text = str(value)
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * factor
    raise _Wrong(f"dial_timeout {text[:20]!r} is no time such as 5s")
