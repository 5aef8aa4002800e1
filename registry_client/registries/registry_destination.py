"""An image in a registry, for publishing; fulfils `ImageDestination` and `BlobMounting`.

Decides what has to be sent: existence is asked first, over the reading connections, so that nothing is sent
twice. How a blob goes up is `blob_upload`'s to know; manifests are stored here, with their exact bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final

from registry_client.digest import digest_of
from registry_client.errors import DigestMismatch, NotFound, ResponseInvalid, Unauthorized
from registry_client.manifest import Descriptor, Manifest, parse_manifest
from registry_client.options import RegistryOptions
from registry_client.reference import Reference
from registry_client.registries.endpoint import PLAIN_HEADERS
from registry_client.registries.routes import Routes
from registry_client.source import BlobMounting
from registry_client.transport.redirect import STATUSES, Location
from registry_client.transport.wire import WireFailure

if TYPE_CHECKING:
    from registry_client.digest import Digest
    from registry_client.registries.blob_upload import BlobUpload, Session
    from registry_client.registries.uploads import Sender

_ACTIONS: Final = "pull,push"
_CREATED: Final = frozenset({200, 201, 204})
_THERE: Final = frozenset({200}) | STATUSES


class RegistryDestination(BlobMounting):
    """All methods from any thread; each blob goes up over a connection of its own."""

    def __init__(self, reference: Reference, options: RegistryOptions) -> None:
        # Never a mirror: what is published goes to the registry itself.
        self._endpoint = Routes(reference, options).own.endpoint
        self._lock = threading.RLock()  # protects making the two below; nothing else is taken under it
        self._sender_made: Sender | None = None
        self._upload_made: BlobUpload | None = None
        # Uploads that the registry opened where a mount was asked for, by the blob's digest.
        self._sessions: dict[Digest, Session] = {}

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self._endpoint.pools.counters.requests

    def has_blob(self, descriptor: Descriptor) -> bool:
        endpoint = self._endpoint
        answer = endpoint.ask(
            "HEAD",
            endpoint.path("blobs", descriptor.digest),
            PLAIN_HEADERS,
            _ACTIONS,
            f"look for blob {descriptor.digest} in {endpoint.repository}",
            _THERE | {404},
            endpoint.deadline(),
        )
        answer.finish()
        # A wrong length is some other content under this name, or a front end that answers everything
        # with 200.
        return answer.status in STATUSES or (
            answer.status == 200 and answer.length() in (None, descriptor.size)
        )

    def put_blob(self, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]) -> None:
        session = self._sessions.pop(descriptor.digest, None)
        if self.has_blob(descriptor):
            if session is not None:
                self._upload.abort(session)
            return
        self._upload.send(descriptor, open_blob, session)

    def mount_blob(self, descriptor: Descriptor, repository: str) -> bool:
        endpoint = self._endpoint
        purpose = f"mount blob {descriptor.digest} from {repository} into {endpoint.repository}"
        place = (
            Location(endpoint.origin, endpoint.path("blobs", "uploads/"))
            .with_query("mount", descriptor.digest)
            .with_query("from", repository)
        )
        try:
            stored = self._sender.send(
                "POST", place, None, {}, purpose, frozenset({201, 202}), endpoint.deadline()
            )
            if stored.status == 201:
                return True
            # Not mounted; what was opened instead is where the blob's own upload goes on.
            self._sessions[descriptor.digest] = self._upload.opened(stored)
        except WireFailure as failure:
            raise endpoint.unreachable(failure, purpose) from failure
        except (NotFound, Unauthorized, ResponseInvalid):
            return False
        return False

    def put_manifest(self, raw: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        endpoint = self._endpoint
        document = parse_manifest(raw, media_type, digest_of(raw))
        descriptor = document.descriptor()
        name = tag or descriptor.digest
        purpose = f"store manifest {endpoint.repository}{':' if tag else '@'}{name}"
        place = Location(endpoint.origin, endpoint.path("manifests", name))
        stored = self._sender.store(
            place, raw, {"Content-Type": media_type}, purpose, _CREATED, endpoint.deadline()
        )
        announced = stored.headers.get("Docker-Content-Digest")
        if announced is not None and announced.startswith("sha256:") and announced != descriptor.digest:
            raise DigestMismatch(
                f"{endpoint.label} was to {purpose} with digest {descriptor.digest} "
                f"and stored {announced[:80]}"
            )
        if isinstance(document, Manifest) and document.subject and "OCI-Subject" not in stored.headers:
            from registry_client.registries.referrers import add_referrer, entry_of

            add_referrer(
                endpoint, self._sender, document.subject.digest, entry_of(document), endpoint.deadline()
            )
        return descriptor

    def close(self) -> None:
        for session in list(self._sessions.values()):
            self._upload.abort(session)
        self._sessions.clear()
        if self._sender_made is not None:
            self._sender_made.close()
        self._endpoint.close()

    @property
    def _sender(self) -> Sender:
        with self._lock:
            if self._sender_made is None:
                # requests costs 40 ms to import; who finds everything there already never pays it.
                from registry_client.registries.uploads import Sender

                self._sender_made = Sender(self._endpoint, _ACTIONS)
            return self._sender_made

    @property
    def _upload(self) -> BlobUpload:
        with self._lock:
            if self._upload_made is None:
                from registry_client.registries.blob_upload import BlobUpload

                self._upload_made = BlobUpload(self._endpoint, self._sender)
            return self._upload_made
