"""Reads images from OCI registries, `oci:` layouts and archives; writes them to all but docker's archives.

Start with `parse_reference`, then `open_source` or `open_destination`. Importing this package is cheap: each
transport is loaded when it is first opened, so a program that only parses names never loads an HTTP library.
Knows nothing of RAFS, chunks or mounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry_client.options import RegistryOptions
    from registry_client.reference import Reference
    from registry_client.source import ImageDestination, ImageSource

__all__ = ["open_destination", "open_source", "warm"]


def open_source(reference: Reference, options: RegistryOptions) -> ImageSource:
    """The image *reference* names, for reading. The caller closes it.

    Raises:
        ReferenceInvalid: `rafs:` names a bare bootstrap, which is not an image.
        NotFound, LayoutInvalid: a local directory or file is absent or broken.
    """
    from registry_client.opening import source_for

    return source_for(reference, options)


def open_destination(reference: Reference, options: RegistryOptions) -> ImageDestination:
    """Where *reference* points, for publishing. The caller closes it.

    Raises:
        ReferenceInvalid: nothing can be written there.
    """
    from registry_client.opening import destination_for

    return destination_for(reference, options)


def warm(source: ImageSource, connections: int) -> None:
    """Have up to *connections* connections of *source* open soon; returns at once.

    For sources that have no connections this does nothing. Failures to connect are left to the first read.
    """
    from registry_client.source import Networked

    if isinstance(source, Networked):
        source.warm(connections)
