"""Where an answer points to: `Location` headers, taken apart without changing a byte, and refused where
unsafe.

Signed URLs break when anybody re-encodes them, and are secrets: their query never appears in a message.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from registry_client.errors import ResponseInvalid
from registry_client.transport.origin import DEFAULT_PORTS, Origin

STATUSES = frozenset({301, 302, 303, 307, 308})
HOPS = 5
"""Redirects followed in a row: registry, data endpoint and storage are two; a loop ends here."""
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^#]*)")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


class Location(NamedTuple):
    """A place to send a request to: *target* is path and query exactly as they were given."""

    origin: Origin
    target: str

    def __repr__(self) -> str:
        return f"Location({self.origin})"  # a query may be a secret

    def with_query(self, name: str, value: str) -> Location:
        """This place with one more query parameter behind those it has."""
        return Location(self.origin, f"{self.target}{'&' if '?' in self.target else '?'}{name}={value}")


def parse_location(text: str | None, base: Location) -> Location:
    """The `Location` header *text* of an answer from *base*.

    Raises:
        ResponseInvalid: absent, malformed, of another scheme, or from HTTPS to HTTP.
    """
    if not text:
        raise ResponseInvalid(f"{base.origin} redirects without saying where to")
    text = text.strip()
    if not all("!" <= letter <= "~" for letter in text):
        raise _refused(base, "the URL has characters no URL has")
    if text.startswith("//"):
        text = f"{base.origin.scheme}:{text}"
    absolute = _ABSOLUTE.fullmatch(text.partition("#")[0])
    if absolute is None:
        target = text if text.startswith("/") else _joined(base.target, text)
        return Location(base.origin, target.partition("#")[0])
    scheme, authority, target = absolute[1].lower(), absolute[2], absolute[3]
    if scheme not in DEFAULT_PORTS:
        raise _refused(base, f"it is of scheme {scheme[:20]!r}, expected http or https")
    if scheme == "http" and base.origin.scheme == "https":
        raise _refused(base, "it leads from HTTPS to plain HTTP")
    host = _AUTHORITY.fullmatch(authority or "")
    if host is None or int(host[2] or 1) > 65535:
        raise _refused(base, "it names no usable host")
    origin = Origin(scheme, host[1].strip("[]").lower(), int(host[2] or DEFAULT_PORTS[scheme]))
    return Location(origin, target if target.startswith("/") else f"/{target}")


def _joined(target: str, text: str) -> str:
    from urllib.parse import urljoin

    return urljoin(target, text)


def _refused(base: Location, why: str) -> ResponseInvalid:
    return ResponseInvalid(f"{base.origin} redirects to a place that is refused: {why}")
