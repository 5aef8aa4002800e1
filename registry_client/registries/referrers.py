"""Making a manifest known to what it refers to, at registries without an API for that.

There the specification has clients keep an index under a tag, read it, add themselves and write it back; two
that do so at once lose one entry. Writers of this process take turns. Against others: an ETag where the
registry honours it, and in any case looking again until nobody can be left who read before we wrote.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from registry_client.digest import Digest
from registry_client.errors import ResponseInvalid
from registry_client.manifest import Descriptor, Manifest
from registry_client.media_type import MediaType
from registry_client.registries.endpoint import Endpoint
from registry_client.registries.listing import fallback_tag, read_fallback
from registry_client.registries.uploads import Sender
from registry_client.transport.deadline import Deadline
from registry_client.transport.redirect import Location

LOOKS: Final = (0.1, 0.3, 0.8)
"""Seconds between writing and looking again, each ± a third. Another writer loses our entry only if it read
before we wrote and writes after our last look: more than a second later."""
_ROUNDS: Final = 20
_lock = threading.Lock()  # protects _turns; nothing else is taken under it
_turns: dict[tuple[str, str, str], threading.Lock] = {}
_users: Counter[tuple[str, str, str]] = Counter()


def entry_of(manifest: Manifest) -> Descriptor:
    """*manifest* as the list of referrers shows it."""
    artifact_type = manifest.artifact_type or manifest.config.media_type
    size = len(manifest.raw)
    return Descriptor(
        manifest.media_type, manifest.digest, size, manifest.annotations, artifact_type=artifact_type
    )


def add_referrer(
    endpoint: Endpoint, sender: Sender, subject: Digest, entry: Descriptor, deadline: Deadline
) -> None:
    """Have *entry* in the list of what refers to *subject*, and everybody else's entries stay.

    Raises:
        Unauthorized, Unreachable, ResponseInvalid: it could not be written, or others write without end.
    """
    with _turn(endpoint, subject):
        for _ in range(_ROUNDS):
            if not _write(endpoint, sender, subject, entry, deadline):
                continue
            if all(_is_there(endpoint, subject, entry, pause, deadline) for pause in LOOKS):
                return
    raise ResponseInvalid(f"{endpoint.label}: the list of what refers to {subject} did not come to rest")


def _write(
    endpoint: Endpoint, sender: Sender, subject: Digest, entry: Descriptor, deadline: Deadline
) -> bool:
    """Add *entry* unless it is there; False if somebody else wrote meanwhile."""
    listed, document, etag = read_fallback(endpoint, subject, deadline)
    if any(one.digest == entry.digest for one in listed):
        return True
    # What others wrote is kept as they wrote it.
    entries = [*document.get("manifests", []), entry.to_json()]
    index = {**document, "schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": entries}
    condition = {"If-Match": etag} if etag else {} if document else {"If-None-Match": "*"}
    raw = json.dumps(index).encode()
    place = Location(endpoint.origin, endpoint.path("manifests", fallback_tag(subject)))
    purpose = f"store the list of what refers to {subject} in {endpoint.repository}"
    headers = {"Content-Type": str(MediaType.OCI_INDEX), **condition}
    accepted = frozenset({200, 201, 204, 409, 412})
    return sender.store(place, raw, headers, purpose, accepted, deadline).status not in (409, 412)


def _is_there(
    endpoint: Endpoint, subject: Digest, entry: Descriptor, pause: float, deadline: Deadline
) -> bool:
    deadline.pause(pause * random.uniform(2 / 3, 4 / 3))
    deadline.renew()
    listed, _, _ = read_fallback(endpoint, subject, deadline)
    return any(one.digest == entry.digest for one in listed)


@contextmanager
def _turn(endpoint: Endpoint, subject: Digest) -> Iterator[None]:
    """Only one writer of this process at a time for one list."""
    key = (endpoint.host, endpoint.repository, subject)
    with _lock:
        turn = _turns.setdefault(key, threading.Lock())
        _users[key] += 1
    try:
        with turn:
            yield
    finally:
        with _lock:
            _users[key] -= 1
            if not _users[key]:
                del _turns[key], _users[key]
