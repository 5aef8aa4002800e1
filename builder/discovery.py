"""How one name leads to an ordinary image and to the converted one, as Nydus' tools spell it in an index.

An entry of an index is marked as converted by its artifact type (since 2025-05) or by a feature of its
platform (before); clients that know neither take the other entry. Not here: which of them is wanted.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import Final

from registry_client.errors import ManifestInvalid
from registry_client.manifest import Descriptor, Manifest
from registry_client.platform import Platform, select
from registry_client.source import ImageSource

ARTIFACT_TYPE: Final = "application/vnd.nydus.image.manifest.v1+json"
PLATFORM_FEATURE: Final = "nydus.remoteimage.v1"
_DEPTH: Final = 4  # indexes within indexes


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

    Entries that are marked as converted are passed over while there are others, so a converted image is the
    answer only where there is no ordinary one.

    Raises:
        NotFound: no entry serves *platform*.
        ManifestInvalid: indexes are nested more than four levels deep.
        and what `ImageSource.resolve` and `ImageSource.manifest` raise.
    """
    current = source.resolve() if named is None else named
    for _ in range(_DEPTH + 1):
        document = source.manifest(current)
        if isinstance(document, Manifest):
            return document
        unmarked = [entry for entry in document.manifests if not is_marked(entry)]
        current = select(unmarked or document.manifests, platform)
    raise ManifestInvalid(f"index {current.digest} lies more than {_DEPTH} levels deep in other indexes")
