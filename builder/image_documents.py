"""The JSON around a converted image, config, manifest and index, as Nydus' tools lay them out.

Everything of the source that does not speak about layers is kept. Pure: JSON in, bytes out, always the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from builder.discovery import ARTIFACT_TYPE
from builder.errors import SourceUnsupported
from registry_client.digest import Digest
from registry_client.manifest import Descriptor, Manifest, MediaType
from registry_client.media_type import GZIP_LAYERS, TAR_LAYERS, ZSTD_LAYERS
from registry_client.platform import Platform, normalise, serves

# Where programs are looked for if a config sets no PATH, as docker does it.
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PREFIX: Final = "containerd.io/snapshot/"
NYDUS_BLOB: Final = f"{_PREFIX}nydus-blob"
NYDUS_BOOTSTRAP: Final = f"{_PREFIX}nydus-bootstrap"
NYDUS_VERSION: Final = f"{_PREFIX}nydus-fs-version"
NYDUS_SOURCE: Final = f"{_PREFIX}nydus-source-digest"
_RAFS_VERSION: Final = "6"
_HISTORY: Final = {"created_by": "Nydus Converter", "comment": "Nydus Bootstrap Layer"}
_SHARED_HISTORY: Final = {"created_by": "nopull", "comment": "a blob that another image made"}
_CONFIGS: Final = frozenset({MediaType.OCI_CONFIG, MediaType.DOCKER_CONFIG})
_LAYERS_LIMIT: Final = 254  # a bootstrap has no more blobs: a byte that counts from 1, 255 not used


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """An image's config document and what converting needs of it."""

    document: Mapping[str, Any]
    diff_ids: tuple[str, ...]

    @property
    def platform(self) -> Platform:
        """What the config says; empty where it says nothing."""
        return _platform(self.document)


def is_converted(manifest: Manifest) -> bool:
    """Whether the image is lazily loadable already: its last layer is a bootstrap."""
    return bool(manifest.layers) and manifest.layers[-1].annotations.get(NYDUS_BOOTSTRAP) == "true"


def served_platform(
    manifest: Manifest, config: bytes, wanted: Platform | None, default: Platform
) -> Platform:
    """What the image is for, normalised: as *config* says, *default* where it says nothing, or is none.

    *wanted* is what was asked for by name, if anything was. An index would have been asked for it; but a name
    may lead to one image alone, whatever it is for.

    Raises:
        SourceUnsupported: the image is for another platform than *wanted*.
    """
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        document = None
    made = _platform(document if isinstance(document, dict) else {})
    found = normalise(made)
    if wanted is not None and not serves(made, wanted):
        raise SourceUnsupported(f"image {manifest.digest}: made for {found}, asked for was {wanted}")
    return found if found.architecture else default


def _platform(document: Mapping[str, Any]) -> Platform:
    words = [document.get(name) for name in ("os", "architecture", "variant")]
    os, architecture, variant = (word if isinstance(word, str) else "" for word in words)
    return Platform(os, architecture, variant)


def check_layers(manifest: Manifest) -> None:
    """Return if the layers of the ordinary image *manifest* are of kinds, and as many, as can be converted.

    Raises:
        SourceUnsupported: one is not.
    """
    for layer in manifest.layers:
        if layer.media_type not in TAR_LAYERS | GZIP_LAYERS | ZSTD_LAYERS:
            raise SourceUnsupported(
                f"image {manifest.digest}: layer {layer.digest} is of type {layer.media_type[:120]!r}, "
                "expected a tar, plain or compressed with gzip or zstd"
            )
    if len(manifest.layers) > _LAYERS_LIMIT:
        raise SourceUnsupported(
            f"image {manifest.digest}: {len(manifest.layers)} layers, at most {_LAYERS_LIMIT} are possible"
        )


def read_config(manifest: Manifest, raw: bytes) -> SourceConfig:
    """The config *raw* of *manifest*.

    Raises:
        SourceUnsupported: not a Linux image's config, or not one for these layers.
    """
    where = f"image {manifest.digest}"
    if manifest.config.media_type not in _CONFIGS:
        raise SourceUnsupported(
            f"{where}: its config is of type {manifest.config.media_type[:99]!r}; only images are converted"
        )
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SourceUnsupported(f"{where}: its config is not JSON: {error}") from error
    rootfs = document.get("rootfs") if isinstance(document, dict) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if diff_ids is None and not manifest.layers:
        diff_ids = []
    if not isinstance(diff_ids, list) or not all(isinstance(one, str) for one in diff_ids):
        raise SourceUnsupported(f"{where}: its config has no list rootfs.diff_ids")
    if len(diff_ids) != len(manifest.layers):
        raise SourceUnsupported(
            f"{where}: its config names {len(diff_ids)} layers, its manifest {len(manifest.layers)}"
        )
    if document.get("os", "linux") != "linux":
        raise SourceUnsupported(f"{where}: made for {str(document['os'])[:40]!r}; only Linux is supported")
    return SourceConfig(document, tuple(diff_ids))


def converted_config(
    source: SourceConfig, diff_ids: Sequence[str], has_blob: Sequence[bool], shared: int
) -> bytes:
    """The config with *diff_ids* as its layers; *has_blob* says which source layers are still among them.

    *shared* is the number of blobs behind them that are other images'. A source layer without file bytes has
    no blob; its history entry is marked as an empty layer, so that the number of entries with a layer stays
    the number of layers.
    """
    document = dict(source.document)
    document["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    history = document.get("history")
    entries = [dict(one) for one in history if isinstance(one, dict)] if isinstance(history, list) else []
    with_layer = [one for one in entries if not one.get("empty_layer")]
    if len(with_layer) == len(has_blob):
        for entry, kept in zip(with_layer, has_blob, strict=True):
            if not kept:
                entry["empty_layer"] = True
    document["history"] = [*entries, *[dict(_SHARED_HISTORY)] * shared, dict(_HISTORY)]
    return _json(document)


def blob_descriptor(blob_id: str, size: int) -> Descriptor:
    """The layer entry of a blob; *blob_id* is 64 hex digits, *size* that of the object in bytes."""
    return Descriptor(MediaType.NYDUS_BLOB, Digest(f"sha256:{blob_id}"), size, {NYDUS_BLOB: "true"})


def bootstrap_descriptor(manifest: Manifest, digest: str, size: int) -> Descriptor:
    """The layer entry of the bootstrap of what *manifest* becomes."""
    docker = manifest.media_type == MediaType.DOCKER_MANIFEST
    media_type = MediaType.DOCKER_LAYER_GZIP if docker else MediaType.OCI_LAYER_GZIP
    return Descriptor(
        media_type, Digest(digest), size, {NYDUS_BOOTSTRAP: "true", NYDUS_VERSION: _RAFS_VERSION}
    )


def converted_manifest(
    source: Manifest,
    config: Descriptor,
    layers: Sequence[Descriptor],
    more: Mapping[str, str],
    *,
    subject: bool = False,
) -> bytes:
    """The manifest of the converted image; of the same family, OCI or Docker, as *source*.

    *more* are further annotations. With *subject* it refers to *source*, which makes it that one's referrer.
    A config of Nydus' own type makes it an artifact, which clients that know nothing of it leave alone.
    """
    annotations = {
        **source.annotations,
        NYDUS_VERSION: _RAFS_VERSION,
        NYDUS_SOURCE: source.digest,
        **more,
    }
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": source.media_type,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
        "annotations": annotations,
    }
    if config.media_type == MediaType.NYDUS_CONFIG:
        document["artifactType"] = ARTIFACT_TYPE
    if subject:
        document["subject"] = Descriptor(source.media_type, source.digest, len(source.raw)).to_json()
    return _json(document)


def converted_index(entries: Sequence[Descriptor], annotations: Mapping[str, str]) -> bytes:
    """An OCI index of *entries*."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return _json(document)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")
