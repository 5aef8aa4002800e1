"""Which manifest of what a reference names is the lazily loadable one, in all the ways Nydus' tools put it.

Directly; in an index marked by its artifact type (since 2025-05) or by a platform feature (before); simply as
the entry of an index that serves the platform; or by referring to the ordinary manifest that does. Any of
them has a bootstrap as its last layer.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from builder.discovery import find_marked, is_marked
from builder.image_documents import NYDUS_VERSION, is_converted
from launch.errors import ImageNotConverted
from registry_client.digest import Digest
from registry_client.errors import RegistryError
from registry_client.manifest import Descriptor, Manifest
from registry_client.media_type import MANIFESTS
from registry_client.platform import Platform
from registry_client.reference import Reference
from registry_client.source import ImageSource, ReferrerSource

# Ordinary images mostly have no such referrer, and some registries never say so.
_REFERRERS_SECONDS: Final = 5.0


def find_converted(
    source: ImageSource, named: Descriptor, platform: Platform, reference: Reference
) -> Manifest:
    """The converted manifest for *platform* that *named*, which is what *reference* names, leads to.

    Raises:
        ImageNotConverted: it is an ordinary image, and no converted one that refers to it was found.
        and what `find_marked` raises.
    """
    manifest = find_marked(source, platform, named)
    if is_converted(manifest):
        return manifest
    referrer = _converted_referrer(source, manifest.digest)
    if referrer is not None:
        return referrer
    raise ImageNotConverted(
        f"{reference.familiar()} is an ordinary image, not a lazily loadable one: "
        f"convert it first with `nopull convert {reference.familiar()} DST`"
    )


def _converted_referrer(source: ImageSource, ordinary: Digest) -> Manifest | None:
    """The first converted image that is listed as referring to *ordinary*, and does.

    None also if the list cannot be had: then the image is as ordinary as it says itself.
    """
    if not isinstance(source, ReferrerSource):
        return None
    try:
        listed = source.referrers(ordinary, within=_REFERRERS_SECONDS)
    except RegistryError:
        return None
    for entry in listed:
        # Signatures and the like are not even read.
        if entry.media_type in MANIFESTS and (is_marked(entry) or NYDUS_VERSION in entry.annotations):
            with suppress(RegistryError):
                found = source.manifest(entry)
                if isinstance(found, Manifest) and is_converted(found) and _refers(found, ordinary):
                    return found
    return None


def _refers(manifest: Manifest, ordinary: Digest) -> bool:
    return manifest.subject is not None and manifest.subject.digest == ordinary
