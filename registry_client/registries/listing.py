"""Lists that a registry hands out in pages: a repository's tags, and what refers to a manifest.

Pages are followed by their `Link` and never to another host. Where a registry does not know referrers, they
are read from the tag that the specification names for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from registry_client.digest import Digest
from registry_client.errors import ManifestInvalid, NotFound, ReferenceInvalid, ResponseInvalid
from registry_client.manifest import Descriptor, parse_descriptor
from registry_client.media_type import ACCEPT, MediaType, strip_parameters
from registry_client.registries.endpoint import PLAIN_HEADERS, Endpoint
from registry_client.transport.answer import Answer
from registry_client.transport.deadline import Deadline
from registry_client.transport.redirect import Location, parse_location

_PAGES: Final = 10_000
_LINK = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?', re.IGNORECASE)
_OK: Final = frozenset({200})
_TAG_LETTERS = re.compile(r"[^A-Za-z0-9._-]")
# ggcr: registries say "no such API" in all these ways.
_NO_API: Final = frozenset({400, 404, 405, 406, 501})
_ANY: Final = frozenset(range(200, 600))  # an answer that is taken as it is, is not asked for again


def list_tags(endpoint: Endpoint) -> list[str]:
    """As `RegistrySource.tags`."""
    purpose = f"list the tags of {endpoint.repository}"
    found: dict[str, None] = {}
    try:
        deadline = endpoint.deadline()
        target = endpoint.path("tags", "list")
        for _, page in _pages(endpoint, target, PLAIN_HEADERS, purpose, _OK, deadline):
            deadline.renew()
            listed = page.get("tags")
            if isinstance(listed, list):
                found.update((tag, None) for tag in listed if isinstance(tag, str))
    except NotFound:
        return []
    return list(found)


def list_referrers(
    endpoint: Endpoint, digest: Digest, artifact_type: str | None, within: float | None
) -> list[Descriptor]:
    """As `RegistrySource.referrers`."""
    target = endpoint.path("referrers", digest)
    if artifact_type is not None:
        from urllib.parse import quote

        target += f"{'&' if '?' in target else '?'}artifactType={quote(artifact_type, safe='')}"
    purpose = f"list what refers to {digest} in {endpoint.repository}"
    entries: list[Descriptor] = []
    headers = {**PLAIN_HEADERS, "Accept": MediaType.OCI_INDEX}
    deadline = endpoint.deadline() if within is None else endpoint.deadline().part(within)
    accepted = _OK | _NO_API if within is None else _ANY
    for answer, page in _pages(endpoint, target, headers, purpose, accepted, deadline):
        if answer.status not in _OK | _NO_API:
            break
        if within is None:
            deadline.renew()
        stated = strip_parameters(answer.headers.get("Content-Type", ""))
        if answer.status != 200 or stated != MediaType.OCI_INDEX:
            # A front end answers every path with 200 and a page of its own.
            entries = read_fallback(endpoint, digest, deadline)[0]
            break
        entries += descriptors(page, purpose)
    unique = {entry.digest: entry for entry in entries}.values()
    return [entry for entry in unique if artifact_type in (None, entry.artifact_type)]


def fallback_tag(digest: Digest) -> str:
    """The tag that lists what refers to *digest* where there is no API for it (distribution-spec,
    "Referrers tag schema").
    """
    name, _, encoded = digest.partition(":")
    return _TAG_LETTERS.sub("-", f"{name[:32]}-{encoded[:64]}")


def read_fallback(
    endpoint: Endpoint, digest: Digest, deadline: Deadline
) -> tuple[list[Descriptor], dict[str, Any], str | None]:
    """What the fallback tag of *digest* lists, the index as it is, and its ETag; nothing if there is none."""
    purpose = f"read the list of what refers to {digest} in {endpoint.repository}"
    target = endpoint.path("manifests", fallback_tag(digest))
    headers = {**PLAIN_HEADERS, "Accept": ACCEPT}
    try:
        answer, text = endpoint.read_document(target, headers, purpose, deadline)
    except NotFound:
        return [], {}, None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return [], {}, None
    if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
        return [], {}, None
    return descriptors(document, purpose), document, answer.headers.get("ETag")


def descriptors(document: Mapping[str, Any], purpose: str) -> list[Descriptor]:
    """The entries of an index.

    Raises:
        ManifestInvalid: one of them is none.
    """
    listed = document.get("manifests") or []
    try:
        return [parse_descriptor(entry) for entry in listed]
    except (ReferenceInvalid, TypeError) as error:
        raise ManifestInvalid(f"could not {purpose}: an entry is no descriptor: {error}") from error


def _pages(
    endpoint: Endpoint,
    target: str,
    headers: Mapping[str, str],
    purpose: str,
    accepted: frozenset[int],
    deadline: Deadline,
) -> Iterator[tuple[Answer, dict[str, Any]]]:
    """Each page's answer and JSON object ({} unless 200 and JSON of a list's kind)."""
    seen: set[str] = set()
    following: str | None = target
    while following is not None:
        if following in seen or len(seen) >= _PAGES:
            raise ResponseInvalid(f"{endpoint.label} was asked to {purpose} and its pages never end")
        seen.add(following)
        answer, text = endpoint.read_document(following, headers, purpose, deadline, accepted)
        page: object = {}
        if answer.status == 200:
            try:
                page = json.loads(text)
            except (ValueError, RecursionError) as error:
                if "json" in answer.headers.get("Content-Type", "json"):
                    raise ResponseInvalid(f"{endpoint.label} could not {purpose}: not JSON") from error
        yield answer, page if isinstance(page, dict) else {}
        following = _next(endpoint, following, answer)


def _next(endpoint: Endpoint, target: str, answer: Answer) -> str | None:
    link = _LINK.search(answer.headers.get("Link", ""))
    if link is None:
        return None
    place = parse_location(link[1], Location(endpoint.origin, target))
    if place.origin != endpoint.origin:
        raise ResponseInvalid(f"{endpoint.label} continues its list at {place.origin}, which is refused")
    return place.target
