"""One way to a repository's content: the registry itself, or one of its mirrors.

Which way is asked for what is `routes`' and `mirrors`' to say.
"""

from __future__ import annotations

from dataclasses import replace

from registry_client.options import RegistryOptions
from registry_client.reference import Reference
from registry_client.registries.blob_reader import BlobReader
from registry_client.registries.endpoint import Endpoint
from registry_client.transport.site import Site
from registry_client.transport.wire import Counters

_PATIENCE = 5.0  # seconds without a byte after which a mirror is given up: another way is open


class Route:
    """One way; its connections, credentials, pace and storage URLs are its own."""

    __slots__ = ("blobs", "endpoint", "site")

    def __init__(
        self, reference: Reference, options: RegistryOptions, site: Site, counters: Counters, *, own: bool
    ) -> None:
        self.site = site
        if not own:
            # An account given for the registry is not a mirror's business.
            options = replace(
                options,
                creds=None,
                connect_timeout=min(site.dial_timeout or _PATIENCE, options.connect_timeout),
                stall_timeout=min(_PATIENCE, options.stall_timeout),
            )
        elif site.dial_timeout is not None:
            options = replace(options, connect_timeout=site.dial_timeout)
        self.endpoint = Endpoint(reference, options, site, counters, mirror=not own)
        self.blobs = BlobReader(self.endpoint)
