"""How one name leads to an ordinary image and to the converted one, as Nydus' tools spell it in an index.

An entry of an index is marked as converted by its artifact type (since 2025-05) or by a feature of its
platform (before); clients that know neither take the other entry. Not here: which of them is wanted.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import Final

from registry_client.manifest import Descriptor, Manifest
from registry_client.platform import Platform
from registry_client.selection import find_manifest
from registry_client.source import ImageSource

ARTIFACT_TYPE: Final = "application/vnd.nydus.image.manifest.v1+json"
PLATFORM_FEATURE: Final = "nydus.remoteimage.v1"


class Spelling(enum.Enum):
    """How an entry is marked."""

    ARTIFACT_TYPE = "artifact-type"
    PLATFORM_FEATURE = "os-features"


def marked(entry: Descriptor, platform: Platform, spelling: Spelling) -> Descriptor:
    """*entry*, a converted image for *platform*, as an index lists it beside the ordinary one."""
    if spelling is Spelling.ARTIFACT_TYPE:
        return replace(entry, platform=platform, artifact_type=ARTIFACT_TYPE)
    features = tuple(dict.fromkeys((*platform.os_features, PLATFORM_FEATURE)))
    return replace(entry, platform=replace(platform, os_features=features), artifact_type=None)


def is_marked(entry: Descriptor) -> bool:
    """Whether an entry of an index says of itself that it is a converted image."""
    features = entry.platform.os_features if entry.platform is not None else ()
    return entry.artifact_type == ARTIFACT_TYPE or PLATFORM_FEATURE in features


def find_ordinary(source: ImageSource, platform: Platform, named: Descriptor | None = None) -> Manifest:
    """The manifest for *platform* that *named* (default: what *source* names now) leads to.

    Entries that are marked as converted are passed over while others serve *platform*, so a converted image
    is the answer only where there is no ordinary one.

    Raises:
        NotFound: no entry serves *platform*.
        and what `find_manifest` raises.
    """
    return find_manifest(source, platform, named, prefer=lambda entry: not is_marked(entry))


def find_marked(source: ImageSource, platform: Platform, named: Descriptor | None = None) -> Manifest:
    """As `find_ordinary`, but passing over entries that are not marked while others serve *platform*.

    An unmarked image may be a converted one nevertheless: `is_converted` tells.
    """
    return find_manifest(source, platform, named, prefer=is_marked)
