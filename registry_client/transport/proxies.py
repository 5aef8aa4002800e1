"""Proxies of the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, read as Go's programs read them.

Loopback is never proxied. A proxy that cannot be reached is gone around for a while and then tried again.
Only loaded when such a variable is set.
"""

from __future__ import annotations

import ipaddress
import logging
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from registry_client.errors import Unreachable
from registry_client.transport.origin import Origin

_log = logging.getLogger(__name__)
DOWN_SECONDS = 30.0
"""For how long a proxy that could not be reached is gone around."""


@dataclass(slots=True)
class Proxy:
    """One proxy and whether it can be reached; all methods from any thread."""

    host: str
    port: int
    authorization: str | None = field(repr=False)
    url: str = field(repr=False)
    """As it was written, account and all: no text for messages."""
    prefix: str
    """What goes before the target of a plain HTTP request to the origin this was asked for."""
    _health: _Health

    def failed(self) -> None:
        """It could not be reached: leave it for a while."""
        self._health.down_until = time.monotonic() + DOWN_SECONDS * random.uniform(0.8, 1.2)
        _log.warning("proxy %s:%d cannot be reached; connecting without it for now", self.host, self.port)

    def succeeded(self) -> None:
        self._health.down_until = 0.0

    def headers(self) -> dict[str, str]:
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


@dataclass(slots=True)
class _Health:
    down_until: float = 0.0


_lock = threading.Lock()  # protects adding to _known; nothing else is taken under it
_known: dict[tuple[str, int], _Health] = {}


def proxy_for(origin: Origin, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy to reach *origin* through; None: none, or it is down.

    Raises:
        Unreachable: the environment names something that is no proxy.
    """
    name = "HTTPS_PROXY" if origin.scheme == "https" else "HTTP_PROXY"
    text = environment.get(name) or environment.get(name.lower()) or ""
    if not text or not _wanted(origin, environment.get("NO_PROXY") or environment.get("no_proxy") or ""):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if not host or parts.scheme != "http":
        raise Unreachable(
            f"the variable {name} names no proxy that can be used: expected http://HOST:PORT", temporary=False
        )
    with _lock:
        health = _known.setdefault((host, port), _Health())
    if time.monotonic() < health.down_until:
        return None
    authorization = None
    if parts.username is not None:
        from registry_client.transport.challenge import basic

        authorization = basic(unquote(parts.username), unquote(parts.password or ""))
    prefix = f"http://{origin}" if origin.scheme == "http" else ""
    return Proxy(host, port, authorization, text if "://" in text else f"http://{text}", prefix, health)


def forget() -> None:
    """Forget which proxies are down."""
    with _lock:
        _known.clear()


def _wanted(origin: Origin, exceptions: str) -> bool:
    if origin.host == "localhost":
        return False
    try:
        address = ipaddress.ip_address(origin.host)
    except ValueError:
        address = None
    if address is not None and address.is_loopback:
        return False
    return not any(
        _matches(origin, address, one.strip().lower()) for one in exceptions.split(",") if one.strip()
    )


def _matches(
    origin: Origin, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, pattern: str
) -> bool:
    if pattern == "*":
        return True
    name, colon, port = pattern.rpartition(":")
    if colon and port.isdigit() and ":" not in name.strip("[]"):
        if int(port) != origin.port:
            return False
        pattern = name
    pattern = pattern.strip("[]")
    if address is not None:
        try:
            return address in ipaddress.ip_network(pattern, strict=False)
        except ValueError:
            return False
    pattern = pattern.removeprefix("*")
    if pattern.startswith("."):
        return origin.host.endswith(pattern)
    return origin.host == pattern or origin.host.endswith("." + pattern)
