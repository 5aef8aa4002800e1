"""One place where a registry's API is served: the registry itself, or a mirror of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from registry_client.options import RegistryOptions
from registry_client.reference import DOCKER_HUB
from registry_client.transport.origin import DEFAULT_PORTS, Origin

if TYPE_CHECKING:
    from registry_client.transport.tls import Trust

_HUB_API = "registry-1.docker.io"


class Site(NamedTuple):
    """Frozen, and equal when nothing about it changed."""

    origin: Origin
    prefix: str = "/v2"
    namespace: str = ""
    """The registry it stands for, told with each request (`ns=`); "" for the registry itself."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent to it, and to nobody it redirects to."""
    pull: bool = True
    resolve: bool = True
    """Whether it is believed about what a tag names."""
    trust: Trust | None = None
    """None: as the user's options say."""
    dial_timeout: float | None = None


def registry_site(host: str, options: RegistryOptions) -> Site:
    """The registry *host* itself: HTTPS, except on loopback or where the user says otherwise."""
    name, port = (_HUB_API, "") if host == DOCKER_HUB else split_port(host)
    plain = options.plain_http
    if plain is None:
        plain = is_loopback(name)
    scheme = "http" if plain else "https"
    return Site(Origin(scheme, name, int(port) if port else DEFAULT_PORTS[scheme]))


def is_loopback(name: str) -> bool:
    return name in ("localhost", "::1") or name.startswith("127.")


def split_port(host: str) -> tuple[str, str]:
    """Host name without brackets, and port or ""."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    return name.strip("[]"), port
