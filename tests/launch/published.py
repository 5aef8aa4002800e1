"""An image of the builders' small language, published where `nopull mount` can find it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.bootstrap_layer import write_bootstrap_layer
from builder.image_documents import NYDUS_BLOB, NYDUS_BOOTSTRAP, NYDUS_VERSION
from launch.images.lazy_image import LazyImage, open_image
from registry_client import open_destination
from registry_client.digest import Digest, digest_of
from registry_client.manifest import Descriptor, MediaType
from registry_client.options import RegistryOptions
from registry_client.platform import Platform
from registry_client.reference import parse_reference
from tests.support.images import Image

CONFIG = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/program"]}}


@dataclass(frozen=True, slots=True)
class Published:
    """Where it is and what it is."""

    reference: str
    manifest: Descriptor
    raw: bytes


def publish(
    image: Image,
    reference: str,
    directory: Path,
    *,
    with_metas: bool = True,
    bootstrap_layer: bytes | None = None,
    annotated: bool = True,
    config: Mapping[str, Any] | bytes = CONFIG,
    complete: bool = False,
) -> Published:
    """Put *image* where *reference* points; *directory* is for scratch files.

    *with_metas*: the bootstrap layer has the chunk info of the blobs. *bootstrap_layer*: those bytes instead
    of the right ones. *annotated* False: an ordinary image, as far as anybody can see.
    *complete*: the config has the layers' diff ids.
    """
    parsed = parse_reference(reference)
    made = write_bootstrap_layer(image.bootstrap, image.blobs if with_metas else (), directory)
    with made.content.open() as file:
        layer = bootstrap_layer if bootstrap_layer is not None else file.read()
    if complete and not isinstance(config, bytes):
        diff_ids = [*(f"sha256:{name}" for name in image.objects), made.diff_id]
        config = {"rootfs": {"type": "layers", "diff_ids": diff_ids}, **config}
    config_raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    blobs = [
        Descriptor(MediaType.NYDUS_BLOB, Digest(f"sha256:{name}"), len(raw), {NYDUS_BLOB: "true"})
        for name, raw in image.objects.items()
    ]
    marks = {NYDUS_BOOTSTRAP: "true", NYDUS_VERSION: "6"} if annotated else {}
    last = Descriptor(MediaType.OCI_LAYER_GZIP, digest_of(layer), len(layer), marks)
    first = Descriptor(MediaType.OCI_CONFIG, digest_of(config_raw), len(config_raw))
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_MANIFEST,
        "config": first.to_json(),
        "layers": [entry.to_json() for entry in [*blobs, last]],
    }
    raw = json.dumps(document).encode()
    destination = open_destination(parsed, RegistryOptions())
    try:
        for descriptor, content in [
            *zip(blobs, image.objects.values(), strict=True), (last, layer), (first, config_raw)
        ]:  # fmt: skip
            destination.put_blob(descriptor, lambda content=content: io.BytesIO(content))  # type: ignore[misc]
        put = destination.put_manifest(raw, MediaType.OCI_MANIFEST, tag=parsed.tag)
    finally:
        destination.close()
        made.content.close()
    return Published(reference, put, raw)


def opened(reference: str, root: Path, platform: Platform | None = None) -> LazyImage:
    """The image, whose connections are closed again."""
    found = open_image(parse_reference(reference), RegistryOptions(), root, platform)
    found.close()
    return found
