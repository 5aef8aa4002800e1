"""The ways to one repository's content: its mirrors in the order of `hosts.toml`, then the registry itself.

A registry without mirrors has one way, and costs one look at the directory when it is opened and one a
second while it is read. Which way is asked for what, and what a failure of one means, is said here; how a way
is asked is `endpoint`'s and `blob_reader`'s.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from registry_client.options import RegistryOptions
from registry_client.reference import Reference
from registry_client.registries.route import Route
from registry_client.transport.site import Site, registry_site
from registry_client.transport.wire import Counters

if TYPE_CHECKING:
    from registry_client.registries.mirrors import MirrorReading

_LOOK_SECONDS = 1.0
_Answer = TypeVar("_Answer")


class Routes:
    """All methods from any thread."""

    def __init__(self, reference: Reference, options: RegistryOptions) -> None:
        self.counters = Counters()
        self._reference = reference
        self._options = options
        self._lock = threading.Lock()  # protects replacing what is below; taken before those of endpoints
        self._stamp: tuple[object, ...] = ()
        self._closed = False
        self.own = Route(reference, options, registry_site(reference.host, options), self.counters, own=True)
        self.mirrors: MirrorReading | None = None
        """How to read as long as there are mirrors."""
        # Reads that began on them may be under way; those of long ago are not.
        self._retired: deque[Route] = deque(maxlen=8)
        self._look_at = 0.0
        self.look()

    def look(self) -> None:
        """Take up what changed in `hosts.toml`; costs a comparison when the last look was just now."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        if not self._stamp and not os.path.isdir(self._options.mirrors_directory):  # noqa: PTH112 - the usual case, for 2 us
            return
        from registry_client.registries.hosts_file import find_directory, read_sites, stamp

        directory = find_directory(self._reference.host, self._options)
        found = stamp(directory)
        if found == self._stamp:
            return
        with self._lock:
            if found == self._stamp or self._closed:
                return
            self._use(read_sites(directory, self._reference.host, self._options))
            self._stamp = found  # last: who sees it may go on without the lock

    def _use(self, sites: tuple[Site, ...]) -> None:
        from registry_client.registries.mirrors import MirrorReading

        before = self.mirrors
        known: dict[Site, Route] = {route.site: route for route in (before.routes if before else ())}
        if sites[-1] != self.own.site:
            self._retire(self.own)
            self.own = Route(self._reference, self._options, sites[-1], self.counters, own=True)
        mirrors = [
            known.pop(site)
            if site in known
            else Route(self._reference, self._options, site, self.counters, own=False)
            for site in sites[:-1]
            if site.pull
        ]
        self.mirrors = MirrorReading(lambda: self.own, mirrors, before) if mirrors else None
        for route in known.values():
            self._retire(route)

    def _retire(self, route: Route) -> None:
        route.endpoint.retire()
        self._retired.append(route)

    def ask(self, digest: str | None, question: Callable[[Route], _Answer]) -> _Answer:
        """What the first way answers that can; *digest* None: about a tag.

        Raises:
            RegistryError: what the registry itself said.
        """
        self.look()
        if self.mirrors is not None:
            return self.mirrors.ask(digest, question)
        return question(self.own)

    def warm(self, connections: int) -> None:
        """Have connections open to the way that is asked first."""
        first = self.mirrors.first() if self.mirrors is not None else None
        (first or self.own).endpoint.warm(connections)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            mirrors = self.mirrors
        for route in (*self._retired, *(mirrors.routes if mirrors else ()), self.own):
            route.endpoint.close()
