"""What a converted image's manifest and config must say of its layers, for readers that know nothing else.

Pure: no layer is looked at. Whether what it lists is there, and is what it says, `image_check` finds out.
"""

from __future__ import annotations

from builder.image_documents import NYDUS_BLOB
from rafs.findings import Finding
from registry_client.digest import encoded, shorten
from registry_client.manifest import Descriptor
from registry_client.media_type import MediaType


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
