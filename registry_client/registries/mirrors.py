"""Reading through mirrors: each in turn if it is well, and then the registry itself, within one deadline.

A mirror's 404 means "not here", its 401 concerns its own accounts, its 5xx its health; none of them says
anything about the registry. Wrong bytes make a mirror be left, reported, and not asked again for a while.
Only loaded when `hosts.toml` names a mirror.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from registry_client.digest import Digest, check_bytes, verify_stream
from registry_client.errors import DigestMismatch, NotFound, RegistryError, Unauthorized, Unreachable
from registry_client.manifest import Descriptor
from registry_client.registries.blob_reader import check_range
from registry_client.registries.health import WRONG_BYTES_REST, Health
from registry_client.transport.deadline import Deadline
from registry_client.transport.token_bucket import TokenBucket

if TYPE_CHECKING:
    from registry_client.registries.route import Route

_log = logging.getLogger(__name__)
HELD = 16 * 1024 * 1024
"""Bytes of a whole blob that are checked before the first of them is handed on, so that a mirror's wrong
ones can be replaced by the registry's."""
_MIRROR_SHARE = 0.5  # of the time left that one mirror may use up
_REMEMBERED = 512
_BACKEND = "backend"  # X-Dragonfly-Error-Type: the registry's own answer, passed on
DIRECT_BURST = 32
DIRECT_RATE = 10.0
"""Requests per second that go to the registry itself when a peer-to-peer proxy fails: a fleet that loses its
proxies at once must not fall upon the registry."""
_Answer = TypeVar("_Answer")


class MirrorReading:
    """Replaced as a whole when the mirrors change. All methods from any thread."""

    def __init__(
        self, own: Callable[[], Route], mirrors: Sequence[Route], before: MirrorReading | None
    ) -> None:
        """*own*: the way to the registry itself, as it is at the moment."""
        self.routes = tuple(mirrors)
        self._own = own
        known: dict[Route, Health] = before.healths if before else {}
        self.healths: dict[Route, Health] = {
            route: known.get(route) or Health(route.endpoint.label, route.endpoint.answers)
            for route in mirrors
        }
        # Who served what lately, to know who is to blame for wrong bytes. Appending is atomic.
        self._served: deque[_Served] = before._served if before else deque(maxlen=_REMEMBERED)
        peers = any(_is_peer(route) for route in mirrors)
        self._direct = TokenBucket(DIRECT_RATE, DIRECT_BURST) if peers else None

    def first(self) -> Route | None:
        """The mirror that is asked first for content; None: all are left at the moment."""
        return next((route for route in self.routes if not self.healths[route].resting), None)

    def ask(self, digest: str | None, question: Callable[[Route], _Answer]) -> _Answer:
        """As `Routes.ask`."""
        for route in self._well(digest):
            try:
                answer = question(route)
            except RegistryError as error:
                self._blame(route, digest, error)
                continue
            self.healths[route].succeeded()
            return answer
        return question(self._own())

    def read_at(self, blob: Descriptor, offset: int, size: int, *, once: bool = False) -> Iterator[bytes]:
        """As `ImageSource.read_at`; *once*: as `Networked.read_once`."""
        check_range(blob, offset, size)
        return self._pieces(blob, offset, offset + size, whole=False, once=once)

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """As `ImageSource.read_blob`."""
        what = f"blob {blob.digest}"
        if blob.size > HELD:
            try:
                yield from verify_stream(
                    self._pieces(blob, 0, blob.size, whole=True), blob.digest, blob.size, what
                )
            except DigestMismatch:
                self.distrust(blob, 0, blob.size)
                raise
            return
        for _ in range(len(self.routes) + 1):
            held = list(self._pieces(blob, 0, blob.size, whole=True))
            try:
                check_bytes(b"".join(held), blob.digest, blob.size, what)
            except DigestMismatch:
                if not self.distrust(blob, 0, blob.size):
                    raise
                continue
            yield from held
            return

    def distrust(self, blob: Descriptor, offset: int, size: int) -> bool:
        """Leave the mirrors that served these bytes, which turned out wrong; False if no mirror did."""
        guilty = {
            one.route
            for one in tuple(self._served)
            if one.digest == blob.digest and one.start < offset + size and offset < one.end
        }
        for route in guilty & set(self.healths):
            health = self.healths[route]
            health.lacks(blob.digest, float("inf"))
            health.failed(f"it served wrong bytes of blob {blob.digest}", rest=WRONG_BYTES_REST)
        return bool(guilty & set(self.healths))

    def _pieces(
        self, blob: Descriptor, position: int, end: int, *, whole: bool, once: bool = False
    ) -> Iterator[bytes]:
        own = self._own()
        deadline = own.endpoint.deadline()
        for route in self._well(blob.digest):
            served = _Served(blob.digest, position, route)
            share = deadline.part(deadline.remaining() * _MIRROR_SHARE)
            try:
                for piece in route.blobs.pieces(blob, position, end, whole=whole, deadline=share, attempts=1):
                    if served.end == served.start:
                        self._served.append(served)
                    position += len(piece)
                    # Before it is handed on: who takes it may say at once that it is wrong.
                    served.end = position
                    if position == end:
                        self.healths[route].succeeded()
                    yield piece
                if position >= end:
                    return
            except RegistryError as error:
                self._blame(route, blob.digest, error)
        self._await_turn(deadline)
        yield from own.blobs.pieces(blob, position, end, whole=whole, deadline=deadline, once=once)

    def _await_turn(self, deadline: Deadline) -> None:
        """Return when the registry itself may be asked.

        Raises:
            Unreachable: that would be after *deadline*.
        """
        if self._direct is None:
            return
        left = deadline.remaining()
        wait = self._direct.take(left)
        if wait >= left:
            raise Unreachable(
                "the peer-to-peer proxy does not answer, and too many ask the registry itself",
                retry_after=wait,
            )
        if wait:
            deadline.pause(wait)

    def _well(self, digest: str | None) -> Iterator[Route]:
        for route in self.routes:
            if digest is None and not route.site.resolve:
                continue
            if self.healths[route].usable(digest):
                yield route

    def _blame(self, route: Route, digest: str | None, error: RegistryError) -> None:
        health = self.healths[route]
        _log.info("%s; going on without it", error)
        if error.blame == _BACKEND:
            if error.retry_after:
                self._own().endpoint.pace.slow_down(error.retry_after)
        elif isinstance(error, NotFound):
            if digest is not None:
                health.lacks(digest)
        elif isinstance(error, DigestMismatch):
            if digest is not None:
                health.lacks(digest, float("inf"))
            health.failed(error, rest=WRONG_BYTES_REST)
        elif isinstance(error, Unreachable) and error.retry_after:
            health.failed(error, rest=error.retry_after)
        elif isinstance(error, Unauthorized):
            health.failed(error, rest=60.0)
        else:
            health.failed(error)


class _Served:
    """Bytes of a blob and who they came from; grows while they come."""

    __slots__ = ("digest", "end", "route", "start")

    def __init__(self, digest: Digest, start: int, route: Route) -> None:
        self.digest = digest
        self.start = self.end = start
        self.route = route


def _is_peer(route: Route) -> bool:
    return any(name.lower().startswith("x-dragonfly-") for name, _ in route.site.headers)
