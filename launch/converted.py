"""Which manifest of what a reference names is the lazily loadable one, in all the ways Nydus' tools put it.

Directly; in an index marked by its artifact type (since 2025-05) or by a platform feature (before); or simply
as the entry of an index that serves the platform. Any of them has a bootstrap as its last layer.
"""

from __future__ import annotations

from builder.discovery import find_marked
from builder.image_documents import is_converted
from launch.errors import ImageNotConverted
from registry_client.manifest import Descriptor, Manifest
from registry_client.platform import Platform
from registry_client.reference import Reference
from registry_client.source import ImageSource


def find_converted(
    source: ImageSource, named: Descriptor, platform: Platform, reference: Reference
) -> Manifest:
    """The converted manifest for *platform* that *named*, which is what *reference* names, leads to.

    Raises:
        ImageNotConverted: it is an ordinary image.
        and what `find_marked` raises.
    """
    manifest = find_marked(source, platform, named)
    if is_converted(manifest):
        return manifest
    raise ImageNotConverted(
        f"{reference.familiar()} is an ordinary image, not a lazily loadable one: "
        f"convert it first with `nopull convert {reference.familiar()} DST`"
    )
