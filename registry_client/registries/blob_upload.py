"""Sending one blob to a registry: in one piece, or in chunks that go on where they broke off.

Small ones in one request where that is supported, middle ones in POST and PUT, large ones in PATCHes. What is
sent is hashed while it is read, and the session of an upload that is given up is deleted, so nothing stays
behind. Whether to send at all is `registry_destination`'s to know.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

from registry_client.digest import VerifyingReader
from registry_client.errors import NotFound, RegistryError, ResponseInvalid, Unreachable
from registry_client.manifest import Descriptor
from registry_client.registries.endpoint import Endpoint
from registry_client.registries.uploads import Sender, Stored
from registry_client.transport.deadline import Deadline
from registry_client.transport.redirect import Location
from registry_client.transport.retrying import ASKING_ATTEMPTS, Attempts
from registry_client.transport.wire import WireFailure

_log = logging.getLogger(__name__)
AT_ONCE: Final = 64 * 1024
"""Bytes of a blob that goes along with the first request; a registry that does not take it there loses
nobody a round trip."""
CHUNKED_FROM: Final = 64 * 1024 * 1024
"""Size in bytes from which a blob is sent in chunks: below, starting over costs less than the chunks do."""
CHUNK: Final = 32 * 1024 * 1024
_KEPT_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_CREATED: Final = frozenset({200, 201, 204})
_OCTETS: Final = {"Content-Type": "application/octet-stream"}
_SKIP: Final = 1024 * 1024


@dataclass(slots=True)
class Session:
    """An upload under way: where it goes on, what the registry has of it, and the smallest chunk it takes."""

    place: Location
    kept: int = 0
    least: int = 0


class BlobUpload:
    """Uploads of one destination; `send` from any thread."""

    def __init__(self, endpoint: Endpoint, sender: Sender) -> None:
        self._endpoint = endpoint
        self._sender = sender
        self._one_request = True
        self._chunks = True

    def send(
        self, descriptor: Descriptor, open_blob: Callable[[], BinaryIO], session: Session | None = None
    ) -> None:
        """As `ImageDestination.put_blob`, for a blob that is not there; goes on in *session* if given.

        Raises:
            DigestMismatch, NotFound, Unauthorized, Unreachable, ResponseInvalid.
        """
        if descriptor.size <= AT_ONCE:
            with open_blob() as opened:
                content = VerifyingReader(opened, descriptor.digest, descriptor.size).read()
            open_blob = partial(io.BytesIO, content)
        purpose = f"store blob {descriptor.digest} ({descriptor.size} bytes) in {self._endpoint.repository}"
        deadline = self._endpoint.deadline()
        attempts = Attempts(deadline, ASKING_ATTEMPTS)
        while True:
            chunked = self._chunks and descriptor.size >= CHUNKED_FROM
            try:
                if session is None:
                    session = self._begin(descriptor, open_blob, purpose, deadline)
                if session is None:
                    return
                if chunked:
                    self._send_chunks(session, descriptor, open_blob, purpose, deadline, attempts)
                else:
                    self._send_whole(session, descriptor, open_blob, purpose, deadline)
                return
            except WireFailure as failure:
                error: RegistryError = self._endpoint.unreachable(failure, purpose)
            except (Unreachable, ResponseInvalid) as temporary:
                error = temporary
            except NotFound as lost:
                if session is None or not chunked:
                    self.abort(session)
                    raise
                error, session = Unreachable(f"{lost}; its upload was forgotten"), None
            except BaseException:
                self.abort(session)
                raise
            try:
                attempts.pause_or_raise(error)
            except RegistryError:
                if not (chunked and session is not None and isinstance(error, ResponseInvalid)):
                    self.abort(session)
                    raise
                _log.info("%s; sending in one piece instead", error)
                self._chunks, attempts = False, Attempts(deadline, ASKING_ATTEMPTS)
                chunked = False
            if chunked and session is not None:
                session = self._go_on(session, purpose, deadline)
            else:
                self.abort(session)
                session = None

    def abort(self, session: Session | None) -> None:
        """Have the registry forget *session*; a registry that cannot collects it by itself, later."""
        if session is None:
            return
        try:
            deadline = Deadline(min(5.0, self._endpoint.options.timeout))
            self._sender.send(
                "DELETE", session.place, None, {}, "give up an upload", frozenset({200, 202, 204}), deadline
            )
        except (RegistryError, WireFailure) as error:
            _log.info("an upload could not be given up: %s", error)

    def opened(self, stored: Stored) -> Session:
        """The session that an answer 202 opened.

        Raises:
            ResponseInvalid: it does not say where.
        """
        least = stored.headers.get("OCI-Chunk-Min-Length", "")
        return Session(stored.next_place(), 0, int(least) if least.isdigit() and len(least) < 16 else 0)

    def _begin(
        self, descriptor: Descriptor, open_blob: Callable[[], BinaryIO], purpose: str, deadline: Deadline
    ) -> Session | None:
        """A new session; None if the blob was stored at once."""
        place = Location(self._endpoint.origin, self._endpoint.path("blobs", "uploads/"))
        if self._one_request and descriptor.size <= AT_ONCE:
            with open_blob() as opened:
                content = opened.read()
            try:
                stored = self._sender.send(
                    "POST",
                    place.with_query("digest", descriptor.digest),
                    content,
                    _OCTETS,
                    purpose,
                    frozenset({201, 202}),
                    deadline,
                )
            except (ResponseInvalid, NotFound):
                self._one_request = False
            else:
                if stored.status == 201:
                    return None
                self._one_request = False
                return self.opened(stored)
        return self.opened(self._sender.send("POST", place, None, {}, purpose, frozenset({202}), deadline))

    def _send_whole(
        self,
        session: Session,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        purpose: str,
        deadline: Deadline,
    ) -> None:
        with open_blob() as opened:
            body = VerifyingReader(opened, descriptor.digest, descriptor.size)
            self._sender.send(
                "PUT",
                session.place.with_query("digest", descriptor.digest),
                (body, descriptor.size),
                _OCTETS,
                purpose,
                _CREATED,
                deadline,
            )

    def _send_chunks(
        self,
        session: Session,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        purpose: str,
        deadline: Deadline,
        attempts: Attempts,
    ) -> None:
        with open_blob() as opened:
            reader = VerifyingReader(opened, descriptor.digest, descriptor.size)
            _skip(reader, session.kept)
            while session.kept < descriptor.size:
                begin = session.kept
                end = min(begin + max(CHUNK, session.least), descriptor.size)
                stored = self._sender.send(
                    "PATCH",
                    session.place,
                    (_Part(reader, end - begin), end - begin),
                    {**_OCTETS, "Content-Range": f"{begin}-{end - 1}"},
                    purpose,
                    frozenset({201, 202, 204, 416}),
                    deadline,
                )
                if stored.status == 416:
                    raise WireFailure(f"it has other bytes of the upload than the first {begin}")
                session.place = stored.next_place()
                session.kept = _kept(stored, end)
                if session.kept != end:
                    raise WireFailure(f"it kept {session.kept} of {end} bytes")
                attempts.progressed()
                deadline.renew()
            reader.read(1)  # only the end of the content says whether it was right
        self._sender.send(
            "PUT",
            session.place.with_query("digest", descriptor.digest),
            None,
            _OCTETS,
            purpose,
            _CREATED,
            deadline,
        )

    def _go_on(self, session: Session, purpose: str, deadline: Deadline) -> Session | None:
        """*session* as the registry has it; None: start over."""
        try:
            stored = self._sender.send(
                "GET", session.place, None, {}, purpose, frozenset({200, 204}), deadline
            )
            if stored.headers.get("Location"):
                session.place = stored.next_place()
            session.kept = _kept(stored, 0)
        except (NotFound, ResponseInvalid):
            return None
        except (WireFailure, RegistryError):
            return session
        return session


class _Part:
    """The next bytes of a reader, as many as one chunk has."""

    def __init__(self, reader: VerifyingReader, size: int) -> None:
        self._reader = reader
        self._left = size

    def read(self, size: int = -1) -> bytes:
        piece = self._reader.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(piece)
        return piece


def _kept(stored: Stored, otherwise: int) -> int:
    """How many bytes the registry says it has."""
    match = _KEPT_RANGE.fullmatch(stored.headers.get("Range", "").strip())
    if match is None:
        return otherwise
    # An empty session says 0-0 as well (distribution 2.8.2); no chunk of ours has one byte.
    return int(match[1]) + 1 if match[1] != "0" else 0


def _skip(reader: VerifyingReader, size: int) -> None:
    """Read over what the registry has: the hash is of all."""
    while size > 0:
        size -= len(reader.read(min(size, _SKIP))) or size
