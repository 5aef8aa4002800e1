"""What a converted image's documents must say: of its layers, for readers that know nothing else, and of what
a container runs, the same as the ordinary image.

Pure: no layer is looked at. Whether what they list is there, and is what they say, `image_check` finds out.
"""

from __future__ import annotations

import json
from typing import Final

from builder.image_documents import NYDUS_BLOB
from launch.images.image_config import ImageConfig
from rafs.findings import Finding
from registry_client.digest import encoded, shorten
from registry_client.manifest import Descriptor
from registry_client.media_type import MediaType

_NAMES: Final = {
    "entrypoint": "Entrypoint",
    "command": "Cmd",
    "env": "Env",
    "working_dir": "WorkingDir",
    "user": "User",
}
_SHOWN: Final = 300  # characters of a value


def check_blob_layer(layer: Descriptor) -> list[Finding]:
    """All that would make others take the blob *layer* for a tar: they would unpack it, and fail."""
    where = f"blob {encoded(layer.digest)}"
    found = []
    if layer.media_type != MediaType.NYDUS_BLOB:
        message = f"its layer is of type {shorten(layer.media_type)!r}, expected {MediaType.NYDUS_BLOB}"
        found.append(Finding("layer-type", where, message))
    if layer.annotations.get(NYDUS_BLOB) != "true":
        found.append(Finding("layer-annotation", where, f"its layer lacks the annotation {NYDUS_BLOB}: true"))
    return found


def check_diff_id(layer: Descriptor, said: object, digest: str) -> list[Finding]:
    """The finding if the config *said* another diff id than *digest*: others refuse the layer then."""
    if said == digest:
        return []
    message = f"its diff id is {shorten(said)!r} in the config, expected {digest}"
    return [Finding("diff-id", f"layer {layer.digest}", message)]


def config_differences(converted: ImageConfig, ordinary: ImageConfig) -> list[Finding]:
    """A finding for each field that is another; one that is absent is as one that is empty."""
    found = []
    for attribute, name in _NAMES.items():
        here, there = (json.dumps(getattr(config, attribute))[:_SHOWN] for config in (converted, ordinary))
        if getattr(converted, attribute) != getattr(ordinary, attribute):
            message = f"{name} is {here}, in the ordinary image {there}"
            found.append(Finding("against-config", "config", message))
    return found
