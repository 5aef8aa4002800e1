"""The media types of images: OCI, Docker schema 2, and what Nydus adds.

Docker's schema 1 is left out so that it is refused instead of misread.
"""

from __future__ import annotations

from typing import Final


class MediaType:
    """Names for the strings; grouped below by what they can be used for."""

    OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
    OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
    OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
    OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
    OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
    OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
    DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
    DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
    NYDUS_CONFIG: Final = "application/vnd.nydus.image.config.v1+json"
    NYDUS_BLOB: Final = "application/vnd.oci.image.layer.nydus.blob.v1"


INDEXES: Final = frozenset({MediaType.OCI_INDEX, MediaType.DOCKER_LIST})
MANIFESTS: Final = frozenset({MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST})
TAR_LAYERS: Final = frozenset({MediaType.OCI_LAYER, MediaType.DOCKER_LAYER})
GZIP_LAYERS: Final = frozenset({MediaType.OCI_LAYER_GZIP, MediaType.DOCKER_LAYER_GZIP})
ZSTD_LAYERS: Final = frozenset({MediaType.OCI_LAYER_ZSTD, MediaType.DOCKER_LAYER_ZSTD})
ACCEPT: Final = ", ".join(
    (MediaType.OCI_INDEX, MediaType.OCI_MANIFEST, MediaType.DOCKER_LIST, MediaType.DOCKER_MANIFEST)
)
"""What an Accept header has to list; distribution answers 404 for a type that is not in it."""


def strip_parameters(content_type: str) -> str:
    """`a/b; charset=x` as `a/b`, lower case: parameters SHOULD be ignored (distribution-spec)."""
    return content_type.partition(";")[0].strip().lower()
