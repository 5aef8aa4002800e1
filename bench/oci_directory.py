"""Writes an `oci:` layout from tar files: what a real build tool would leave, in one deterministic step.

Not `registry_client`'s layout code: the image that the measurements start from shall not be made by what
is measured. Layers are compressed with gzip -6, as docker and buildah do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GZIP_LEVEL = 6
GZIP_WINDOW = 31  # zlib's number for a gzip wrapper around the largest window; its header holds no time
PIECE_BYTES = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER = f"{PLAIN_LAYER}+gzip"


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A compressed layer below blobs/sha256: digests without prefix, size in bytes as compressed."""

    digest: str
    diff_id: str
    size: int


def write_oci_directory(
    directory: Path,
    *,
    name: str,
    layers: Sequence[Path],
    config: Mapping[str, Any],
    architecture: str,
    created: str,
    compress: bool = True,
) -> None:
    """Make *directory* an OCI layout with one image called *name*; *layers*: plain tar files, lowest first.

    *config* is the `config` object of the image (Cmd, Env …); *created* an RFC 3339 time; without *compress*
    layers stay plain.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    store = pack_layer if compress else copy_layer
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        packed = list(pool.map(lambda layer: store(layer, blobs), layers))
    config_digest, config_size = _put(
        blobs,
        {
            "architecture": architecture,
            "os": "linux",
            "created": created,
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in packed]},
            "history": [{"created": created, "created_by": layer.stem} for layer in layers],
        },
    )
    digest, size = _put(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config_digest, config_size),
            "layers": [
                _descriptor(LAYER if compress else PLAIN_LAYER, layer.digest, layer.size) for layer in packed
            ],
        },
    )
    entry = {
        **_descriptor(MANIFEST, digest, size),
        "annotations": {"org.opencontainers.image.ref.name": name},
        "platform": {"architecture": architecture, "os": "linux"},
    }
    (directory / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def pack_layer(layer: Path, blobs: Path) -> PackedLayer:
    """Compress a tar file into *blobs* under its digest."""
    plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    unnamed = blobs / f"{layer.name}.part"
    with layer.open("rb") as source, unnamed.open("wb") as target:
        while True:
            piece = source.read(PIECE_BYTES)
            plain.update(piece)
            out = compressor.compress(piece) if piece else compressor.flush()
            packed.update(out)
            size += target.write(out)
            if not piece:
                break
    unnamed.rename(blobs / packed.hexdigest())
    return PackedLayer(packed.hexdigest(), plain.hexdigest(), size)


def copy_layer(layer: Path, blobs: Path) -> PackedLayer:
    """Copy a tar file into *blobs* under its digest."""
    with layer.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    shutil.copyfile(layer, blobs / digest)
    return PackedLayer(digest, digest, layer.stat().st_size)


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _put(blobs: Path, content: Mapping[str, Any]) -> tuple[str, int]:
    raw = _json(content)
    digest = hashlib.sha256(raw).hexdigest()
    (blobs / digest).write_bytes(raw)
    return digest, len(raw)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
