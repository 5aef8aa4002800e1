"""From what a reference names to the manifest for one platform, through as many indexes as it takes, and to
its config.

Written once over the `ImageSource` protocol, so every transport has it.
"""

from __future__ import annotations

from collections.abc import Callable

from registry_client.errors import ManifestInvalid, NotFound
from registry_client.manifest import Descriptor, Manifest
from registry_client.platform import Platform, select
from registry_client.source import ImageSource

CONFIG_LIMIT = 8 << 20  # bytes; configs have a few KB
_DEPTH = 4  # indexes within indexes occur with one level of nesting; more is a mistake or a trap


def find_manifest(
    source: ImageSource,
    platform: Platform,
    descriptor: Descriptor | None = None,
    *,
    prefer: Callable[[Descriptor], bool] | None = None,
) -> Manifest:
    """The manifest for *platform* that *descriptor* (default: what *source* names now) leads to.

    Entries of an index that *prefer* is false for are passed over while others serve *platform*. A single
    manifest is returned whatever its platform is: only its config could tell.

    Raises:
        NotFound: no entry serves *platform*.
        ManifestInvalid: indexes are nested more than four levels deep.
        and what `ImageSource.resolve` and `ImageSource.manifest` raise.
    """
    current = source.resolve() if descriptor is None else descriptor
    for _ in range(_DEPTH + 1):
        document = source.manifest(current)
        if isinstance(document, Manifest):
            return document
        preferred = [entry for entry in document.manifests if prefer is None or prefer(entry)]
        try:
            current = select(preferred, platform)
        except NotFound:
            current = select(document.manifests, platform)
    raise ManifestInvalid(f"index {current.digest} lies more than {_DEPTH} levels deep in other indexes")


def config_bytes(source: ImageSource, manifest: Manifest) -> bytes:
    """The config document of *manifest*, verified by its digest.

    Raises:
        ManifestInvalid: it has more than `CONFIG_LIMIT` bytes.
        and what `ImageSource.read_blob` and reading from it raise.
    """
    if manifest.config.size > CONFIG_LIMIT:
        raise ManifestInvalid(
            f"image {manifest.digest}: its config has {manifest.config.size} bytes, at most {CONFIG_LIMIT}"
        )
    return b"".join(source.read_blob(manifest.config))
