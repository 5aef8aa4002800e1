"""An image in a registry, for reading; fulfils `ImageSource`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Final

from registry_client.blob_reader import BlobReader
from registry_client.digest import Digest, check_bytes, digest_of
from registry_client.endpoint import PLAIN_HEADERS, Endpoint
from registry_client.errors import DigestMismatch, NotFound, ResponseInvalid
from registry_client.manifest import (
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    media_type_of,
    parse_manifest,
)
from registry_client.media_type import ACCEPT
from registry_client.options import RegistryOptions
from registry_client.reference import Reference
from registry_client.retrying import ASKING_ATTEMPTS, Attempts
from registry_client.wire import WireFailure

_log = logging.getLogger(__name__)
_HEADERS: Final = {**PLAIN_HEADERS, "Accept": ACCEPT}
_OK: Final = frozenset({200})
_KEPT = 16  # documents remembered: an index, its manifests, and some more


class RegistrySource:
    """All methods from any thread. Connections are made when first needed, or by `warm`."""

    def __init__(self, reference: Reference, options: RegistryOptions) -> None:
        self._reference = reference
        self._endpoint = Endpoint(reference, options)
        self._blobs = BlobReader(self._endpoint)
        # What `resolve` had to read anyway, so that `manifest` need not ask again: one round trip less before
        # anything starts. Verified bytes by digest; assigning and reading an entry is atomic.
        self._documents: dict[Digest, bytes] = {}

    @property
    def requests(self) -> int:
        """Requests sent so far, to the registry, its token server and its storage hosts."""
        return self._endpoint.pools.counters.requests

    @property
    def bytes_received(self) -> int:
        """Bytes of blobs and manifests received so far, also those of attempts that failed later."""
        return self._endpoint.pools.counters.bytes_received

    @property
    def connections(self) -> int:
        """TCP connections opened so far."""
        return self._endpoint.pools.counters.connections

    def resolve(self) -> Descriptor:
        name = self._reference.digest or self._reference.tag or ""
        what = self._what(name)
        raw, stated, announced = self._get(name)
        digest = digest_of(raw)
        if self._reference.digest is not None:
            check_bytes(raw, self._reference.digest, None, f"{what} from registry {self._endpoint.host}")
            digest = self._reference.digest
            if announced not in (None, digest):
                _log.warning(
                    "registry %s calls %s %.80s; its bytes are right", self._endpoint.host, what, announced
                )
        elif announced is not None and announced.startswith("sha256:") and announced != digest:
            raise DigestMismatch(
                f"{what} from registry {self._endpoint.host} has digest {digest}, "
                f"but was announced as {announced[:80]}"
            )
        self._remember(digest, raw)
        return Descriptor(media_type_of(raw, stated, what), digest, len(raw))

    def tags(self) -> list[str]:
        """The repository's tags as the registry lists them, in one answer; empty if there is no repository.

        Raises:
            Unauthorized, Unreachable, ResponseInvalid.
        """
        endpoint = self._endpoint
        purpose = f"list the tags of {endpoint.repository}"
        try:
            answer = endpoint.ask(
                "GET", endpoint.path("tags", "list"), PLAIN_HEADERS, "pull", purpose, _OK, endpoint.deadline()
            )
            listed = json.loads(answer.read_all(MANIFEST_LIMIT)).get("tags") or []
        except NotFound:
            return []
        except WireFailure as failure:
            raise endpoint.unreachable(failure, purpose) from failure
        except (ValueError, AttributeError) as error:
            raise ResponseInvalid(f"registry {endpoint.host} could not {purpose}: not JSON") from error
        return [tag for tag in listed if isinstance(tag, str)] if isinstance(listed, list) else []

    def resolve_tag(self, tag: str) -> Descriptor:
        """As `resolve`, for another tag of the same repository."""
        raw, stated, _ = self._get(tag)
        digest = digest_of(raw)
        self._remember(digest, raw)
        return Descriptor(media_type_of(raw, stated, self._what(tag)), digest, len(raw))

    def manifest(self, descriptor: Descriptor) -> Manifest | Index:
        raw = self._documents.get(descriptor.digest)
        if raw is None:
            raw, _, _ = self._get(descriptor.digest)
        what = f"{self._what(descriptor.digest)} from registry {self._endpoint.host}"
        check_bytes(raw, descriptor.digest, descriptor.size, what)
        self._remember(descriptor.digest, raw)
        return parse_manifest(raw, descriptor.media_type, descriptor.digest)

    def read_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        return self._blobs.read_blob(descriptor)

    def read_range(self, blob: Descriptor, offset: int, size: int) -> Iterator[bytes]:
        return self._blobs.read_range(blob, offset, size)

    def warm(self, connections: int) -> None:
        """Have *connections* connections to the registry open soon; returns at once."""
        self._endpoint.warm(connections)

    def close(self) -> None:
        self._endpoint.close()

    def _get(self, name: str) -> tuple[bytes, str, str | None]:
        """The bytes of a manifest, the Content-Type and the digest they were announced with."""
        endpoint = self._endpoint
        deadline = endpoint.deadline()
        attempts = Attempts(deadline, ASKING_ATTEMPTS)
        target = endpoint.path("manifests", name)
        purpose = f"read {self._what(name)}"

        while True:
            answer = endpoint.ask("GET", target, _HEADERS, "pull", purpose, _OK, deadline)
            try:
                raw = answer.read_all(MANIFEST_LIMIT)
            except WireFailure as failure:
                attempts.pause_or_raise(endpoint.unreachable(failure, purpose))
                continue
            endpoint.pools.counters.add(bytes_received=len(raw))
            return raw, answer.headers.get("Content-Type", ""), answer.headers.get("Docker-Content-Digest")

    def _what(self, name: str) -> str:
        return f"manifest {self._endpoint.repository}{'@' if ':' in name else ':'}{name}"

    def _remember(self, digest: Digest, raw: bytes) -> None:
        if len(self._documents) < _KEPT:
            self._documents[digest] = raw
