"""An image in a registry, for reading; fulfils `ImageSource` and all that sources may fulfil beyond it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from registry_client.digest import Digest, check_bytes, digest_of
from registry_client.errors import DigestMismatch
from registry_client.manifest import Descriptor, Index, Manifest, media_type_of, parse_manifest
from registry_client.media_type import ACCEPT
from registry_client.options import RegistryOptions
from registry_client.reference import Reference
from registry_client.registries.endpoint import PLAIN_HEADERS
from registry_client.registries.route import Route
from registry_client.registries.routes import Routes
from registry_client.source import Mirrored, Networked, ReferrerSource, TaggedSource

_log = logging.getLogger(__name__)
_HEADERS: Final = {**PLAIN_HEADERS, "Accept": ACCEPT}
_KEPT = 16  # documents remembered: an index, its manifests, and some more


class RegistrySource(TaggedSource, ReferrerSource, Networked, Mirrored):
    """All methods from any thread. Connections are made when first needed, or by `warm`."""

    def __init__(self, reference: Reference, options: RegistryOptions) -> None:
        self._reference = reference
        self._routes = Routes(reference, options)
        # What `resolve` had to read anyway, so that `manifest` need not ask again: one round trip less before
        # anything starts. Verified bytes by digest; assigning and reading an entry is atomic.
        self._documents: dict[Digest, bytes] = {}

    @property
    def requests(self) -> int:
        """Requests sent so far, to the registry, its token server and its storage hosts."""
        return self._routes.counters.requests

    @property
    def bytes_received(self) -> int:
        """Bytes of blobs and manifests received so far, also those of attempts that failed later."""
        return self._routes.counters.bytes_received

    @property
    def connections(self) -> int:
        return self._routes.counters.connections

    @property
    def bound(self) -> int:
        """How many connections to the registry pay, as far as is known."""
        return self._routes.own.endpoint.bound

    def resolve(self) -> Descriptor:
        name = self._reference.digest or self._reference.tag or ""
        return self._resolve(name)

    def resolve_tag(self, tag: str) -> Descriptor:
        return self._resolve(tag)

    def tags(self) -> list[str]:
        from registry_client.registries.listing import list_tags

        return list_tags(self._routes.own.endpoint)

    def referrers(
        self, digest: Digest, artifact_type: str | None = None, *, within: float | None = None
    ) -> list[Descriptor]:
        from registry_client.registries.listing import list_referrers

        return list_referrers(self._routes.own.endpoint, digest, artifact_type, within)

    def manifest(self, descriptor: Descriptor) -> Manifest | Index:
        raw = self._documents.get(descriptor.digest)
        if raw is None:
            raw, _ = self._routes.ask(descriptor.digest, lambda route: self._get(route, descriptor.digest))
        check_bytes(raw, descriptor.digest, descriptor.size, self._what(descriptor.digest))
        self._remember(descriptor.digest, raw)
        return parse_manifest(raw, descriptor.media_type, descriptor.digest)

    def read_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        routes = self._routes
        routes.look()
        return (routes.mirrors or routes.own.blobs).read_blob(descriptor)

    def read_at(self, blob: Descriptor, offset: int, size: int) -> Iterator[bytes]:
        routes = self._routes
        routes.look()
        return (routes.mirrors or routes.own.blobs).read_at(blob, offset, size)

    def read_once(self, blob: Descriptor, offset: int, size: int) -> Iterator[bytes]:
        routes = self._routes
        routes.look()
        return (routes.mirrors or routes.own.blobs).read_at(blob, offset, size, once=True)

    def distrust(self, blob: Descriptor, offset: int, size: int) -> None:
        routes = self._routes
        if routes.mirrors is None or not routes.mirrors.distrust(blob, offset, size):
            routes.own.blobs.forget(blob.digest)

    def warm(self, connections: int) -> None:
        self._routes.warm(connections)

    def close(self) -> None:
        self._routes.close()

    def _resolve(self, name: str) -> Descriptor:
        digest = Digest(name) if ":" in name else None
        raw, stated = self._routes.ask(digest, lambda route: self._get(route, name))
        digest = digest or digest_of(raw)
        self._remember(digest, raw)
        return Descriptor(media_type_of(raw, stated, self._what(name)), digest, len(raw))

    def _get(self, route: Route, name: str) -> tuple[bytes, str]:
        """The bytes of a manifest, checked against what they are called, and their Content-Type."""
        endpoint = route.endpoint
        what = f"{self._what(name)} from {endpoint.label}"
        target = endpoint.path("manifests", name)
        purpose = f"read {self._what(name)}"
        answer, raw = endpoint.read_document(target, _HEADERS, purpose, endpoint.deadline())
        self._routes.counters.add(bytes_received=len(raw))
        announced = answer.headers.get("Docker-Content-Digest")
        if ":" in name:
            check_bytes(raw, Digest(name), None, what)
            if announced not in (None, name):
                _log.warning("%s calls %s %.80s; its bytes are right", endpoint.label, what, announced)
        elif announced is not None and announced.startswith("sha256:") and announced != digest_of(raw):
            raise DigestMismatch(f"{what} has digest {digest_of(raw)}, but was announced as {announced[:80]}")
        return raw, answer.headers.get("Content-Type", "")

    def _what(self, name: str) -> str:
        return f"manifest {self._reference.repository}{'@' if ':' in name else ':'}{name}"

    def _remember(self, digest: Digest, raw: bytes) -> None:
        if len(self._documents) < _KEPT:
            self._documents[digest] = raw
