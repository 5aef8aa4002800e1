"""Bytes of blobs from a registry: ranges, whole blobs, and the storage URLs they really come from.

The rule is that nothing is handed on whose place in the blob was not stated and checked: status,
Content-Range, total, length, coding. After a failure reading goes on at the first missing byte.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Final

from registry_client.digest import Digest, shorten, verify_stream
from registry_client.errors import DigestMismatch, RangeInvalid, RegistryError, ResponseInvalid, Unreachable
from registry_client.manifest import Descriptor
from registry_client.registries.endpoint import PLAIN_HEADERS, Endpoint
from registry_client.transport.answer import Answer
from registry_client.transport.deadline import Deadline
from registry_client.transport.redirect import Location
from registry_client.transport.retrying import Attempts
from registry_client.transport.wire import WireFailure

PIECE: Final = 64 * 1024
"""Most bytes taken from a connection at once. The buffer for each is allocated anew: from 128 KiB on
malloc maps and unmaps it, which made 1 MiB cost 1.4 ms of CPU instead of 0.6 (urllib3 alone: 0.45);
smaller ones cost more calls.
"""
SKIP_LIMIT: Final = 1024 * 1024
"""Bytes thrown away to reach an offset when a server answers a range with the whole blob; a range further
in is refused instead, since each read would cost the blob up to there.
"""
PROGRESS: Final = 1024 * 1024
"""Bytes of a whole blob that renew its deadline: 17 KiB/s with the default of 60 s, so a drip still ends."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.IGNORECASE)
_EXPIRED = frozenset({401, 403, 404, 410})


class BlobReader:
    """Reads the blobs of one repository; all methods from any thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()  # protects adding to _resolving; nothing else is taken under it
        # One lock per blob: whoever holds it asks the registry anew, the others wait for the URL. Taken
        # before any lock of the endpoint.
        self._resolving: dict[Digest, threading.Lock] = {}
        self._places: dict[Digest, Location] = {}
        self._redirects = False

    def read_at(self, blob: Descriptor, offset: int, size: int, *, once: bool = False) -> Iterator[bytes]:
        """As `ImageSource.read_at`; *once*: as `Networked.read_once`."""
        check_range(blob, offset, size)
        return self.pieces(blob, offset, offset + size, whole=False, once=once)

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """As `ImageSource.read_blob`."""
        what = f"blob {blob.digest} of {self._endpoint.repository} at {self._endpoint.label}"
        return verify_stream(self.pieces(blob, 0, blob.size, whole=True), blob.digest, blob.size, what)

    def forget(self, digest: Digest) -> None:
        """Ask the registry anew where *digest* lies."""
        self._places.pop(digest, None)

    def pieces(
        self,
        blob: Descriptor,
        position: int,
        end: int,
        *,
        whole: bool,
        deadline: Deadline | None = None,
        attempts: int | None = None,
        once: bool = False,
    ) -> Iterator[bytes]:
        """The bytes of *blob* from *position* to *end*, which it must have; *attempts* without progress at
        most (None: as many as the deadline allows). *once*: only an answer that breaks off is gone on with.
        """
        endpoint = self._endpoint
        deadline = deadline or endpoint.deadline()
        failures: Attempts | None = None
        renewed = position
        while position < end:
            answer: Answer | None = None
            started = position
            try:
                answer, left = self._open(blob, position, end, deadline, whole)
                while left:
                    piece = answer.read(PIECE if left > PIECE else left)
                    if not piece:
                        raise WireFailure("the connection was closed in the middle of the answer")
                    left -= len(piece)
                    position += len(piece)
                    if not left:
                        answer.finish_exact()
                    elif whole and position - renewed >= PROGRESS:
                        renewed = position
                        deadline.renew()
                    yield piece
                continue
            except WireFailure as failure:
                error: RegistryError = endpoint.unreachable(failure, _purpose(blob, started, end))
            except (Unreachable, ResponseInvalid) as temporary:
                error = temporary
            finally:
                if answer is not None:
                    answer.drop()
                endpoint.pools.counters.add(bytes_received=position - started)
            if once and position == started:
                raise error
            failures = failures or Attempts(deadline, attempts)
            if position > started:
                failures.progressed()
            failures.pause_or_raise(error)

    def _open(
        self, blob: Descriptor, position: int, end: int, deadline: Deadline, whole: bool
    ) -> tuple[Answer, int]:
        """An answer whose next bytes are those at *position*, and how many of them it has."""
        headers = dict(PLAIN_HEADERS)
        if not whole or position:
            headers["Range"] = f"bytes={position}-{end - 1}"
        answer, place = self._send(blob.digest, headers, deadline)
        try:
            if answer.status == 206:
                return answer, self._part(answer, blob, position, end)
            if answer.status == 200:
                return answer, self._all(answer, blob, position, end, whole)
            raise self._endpoint.refused(answer, _purpose(blob, position, end), place)
        except BaseException:
            answer.drop()
            raise

    def _send(
        self, digest: Digest, headers: dict[str, str], deadline: Deadline
    ) -> tuple[Answer, Location | None]:
        """Ask where the blob is known to lie, else the registry; a URL that expired is replaced once."""
        place = self._places.get(digest)
        if place is None and not self._redirects:
            return self._ask_registry(digest, headers, deadline)
        if place is not None:
            answer = self._ask_place(digest, place, headers, deadline)
            if not _expired(answer):
                return answer, place
            answer.text()
        with self._lock:
            lock = self._resolving.setdefault(digest, threading.Lock())
        if not lock.acquire(timeout=max(deadline.remaining(), 0)):
            raise WireFailure("its storage URL was not renewed in time")
        try:
            newer = self._places.get(digest)
            if newer is None or newer is place:
                self._places.pop(digest, None)
                return self._ask_registry(digest, headers, deadline)
        finally:
            lock.release()
        return self._ask_place(digest, newer, headers, deadline), newer

    def _ask_place(
        self, digest: Digest, place: Location, headers: dict[str, str], deadline: Deadline
    ) -> Answer:
        try:
            return self._endpoint.pools.at(place.origin).send("GET", place.target, headers, deadline)
        except WireFailure:
            self._places.pop(digest, None)
            raise

    def _ask_registry(
        self, digest: Digest, headers: dict[str, str], deadline: Deadline
    ) -> tuple[Answer, Location | None]:
        endpoint = self._endpoint
        target = endpoint.path("blobs", digest)
        first = endpoint.send("GET", target, headers, "pull", deadline)
        answer, place = endpoint.follow(first, target, headers, "pull", deadline)
        if place is not None and place.origin != endpoint.origin:
            self._redirects = True
            if answer.status in (200, 206):
                self._places[digest] = place
        return answer, place

    def _part(self, answer: Answer, blob: Descriptor, position: int, end: int) -> int:
        """How many bytes of the asked ones a 206 has; never more than asked, perhaps less."""
        stated = answer.headers.get("Content-Range")
        match = _CONTENT_RANGE.fullmatch((stated or "").strip())
        if match is None:
            raise self._wrong(f"with Content-Range {shorten(stated, 60)!r}", blob, position, end)
        first, last, total = (int(number) for number in match.groups())
        if total != blob.size:
            raise self._other_size(total, blob)
        if first != position or not first <= last < end:
            raise self._wrong(f"with bytes {first}-{last}", blob, position, end)
        count = last - first + 1
        self._check_body(answer, count, blob, position, end)
        return count

    def _all(self, answer: Answer, blob: Descriptor, position: int, end: int, whole: bool) -> int:
        """How many bytes of the asked ones a 200 has, after skipping those before."""
        if answer.headers.get("Content-Range"):
            # dfdaemon before 1.3.11 marked a part with 200.
            return self._part(answer, blob, position, end)
        if position > SKIP_LIMIT and not whole:
            raise self._wrong("with the whole blob; it serves no ranges (yet)", blob, position, end)
        if answer.length() not in (None, blob.size):
            raise self._other_size(answer.length(), blob)
        self._check_body(answer, blob.size, blob, position, end)
        left = position
        while left:
            piece = answer.read(min(left, PIECE))
            if not piece:
                raise WireFailure("the connection was closed in the middle of the answer")
            left -= len(piece)
        return end - position

    def _check_body(self, answer: Answer, count: int, blob: Descriptor, position: int, end: int) -> None:
        coding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("identity", ""):
            raise self._wrong(f"in coding {shorten(coding, 40)!r}", blob, position, end)
        length = answer.length()
        if length is not None and length != count:
            raise self._wrong(f"with {length} bytes where {count} were due", blob, position, end)

    def _wrong(self, how: str, blob: Descriptor, position: int, end: int) -> ResponseInvalid:
        return ResponseInvalid(
            f"{self._endpoint.label} was asked to {_purpose(blob, position, end)} and answered {how}",
            temporary=True,
        )

    def _other_size(self, size: int | None, blob: Descriptor) -> DigestMismatch:
        return DigestMismatch(
            f"blob {blob.digest} has {size} bytes at {self._endpoint.label} "
            f"instead of the {blob.size} its descriptor promises"
        )


def check_range(blob: Descriptor, offset: int, size: int) -> None:
    """Return if *blob* has these bytes.

    Raises:
        RangeInvalid.
    """
    if offset < 0 or size < 0 or offset + size > blob.size:
        raise RangeInvalid(
            f"blob {blob.digest} has {blob.size} bytes; asked for {size} bytes from offset {offset}"
        )


def _purpose(blob: Descriptor, position: int, end: int) -> str:
    return f"read bytes {position}-{end - 1} of {blob.size} of blob {blob.digest}"


def _expired(answer: Answer) -> bool:
    if answer.status == 400:
        return "ExpiredToken" in answer.text()
    return answer.status in _EXPIRED
