"""What an image that is not converted says of itself: its manifest and config. None of it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from builder.image_documents import served_platform
from registry_client import open_source
from registry_client.manifest import Manifest
from registry_client.options import RegistryOptions
from registry_client.platform import Platform, host_platform
from registry_client.reference import Reference
from registry_client.selection import config_bytes, find_manifest


@dataclass(frozen=True, slots=True)
class OrdinaryImage:
    """The documents of an ordinary image; owns nothing."""

    reference: str  # as people write it
    platform: Platform  # as its config says, else what was asked for
    manifest: Manifest
    config: bytes


def read_ordinary(
    reference: Reference, registry: RegistryOptions, platform: Platform | None
) -> OrdinaryImage:
    """The image *reference* names, for *platform* (None: this machine's).

    Raises:
        what `registry_client` raises, and `served_platform`.
    """
    wanted = platform or host_platform()
    source = open_source(reference, registry)
    try:
        manifest = find_manifest(source, wanted)
        config = config_bytes(source, manifest)
    finally:
        source.close()
    served = served_platform(manifest, config, platform, wanted)
    return OrdinaryImage(reference.familiar(), served, manifest, config)
