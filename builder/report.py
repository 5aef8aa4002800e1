"""What a conversion did, in numbers: for people, for `--json`, and for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from registry_client.digest import Digest
from registry_client.manifest import Descriptor


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer; sizes in bytes. `blob` is None where nothing was new in it."""

    digest: str
    source_bytes: int  # as it was stored
    tar_bytes: int
    files: int  # regular ones
    blob: str | None
    blob_bytes: int
    reused: bool = False  # neither fetched nor pushed: its blob was there already


@dataclass(frozen=True, slots=True)
class ImageReport:
    """One manifest; `digest` is that of the converted one, `seconds` are wall time by phase."""

    platform: str
    source_digest: str
    media_type: str
    digest: str
    manifest_bytes: int
    already_converted: bool
    layers: tuple[LayerReport, ...]
    bootstrap_bytes: int  # of the bootstrap itself, not compressed
    bootstrap_layer_bytes: int  # compressed, with the blobs' metadata
    hot_files: int
    hot_blob_bytes: int  # of the blob with copies of what is prefetched; 0: there is none
    chunks: int
    chunks_shared: int  # references to a chunk that was stored already
    dropped_xattrs: Mapping[str, int]
    not_prefetched: tuple[str, ...]  # wishes that name nothing in the image
    seconds: Mapping[str, float]

    def descriptor(self) -> Descriptor:
        """What an index says of the image."""
        return Descriptor(self.media_type, Digest(self.digest), self.manifest_bytes)

    @property
    def source_bytes(self) -> int:
        return sum(layer.source_bytes for layer in self.layers)

    @property
    def tar_bytes(self) -> int:
        return sum(layer.tar_bytes for layer in self.layers)

    @property
    def new_bytes(self) -> int:
        """Of those, what was made in this run, or copied."""
        blobs = sum(layer.blob_bytes for layer in self.layers if not layer.reused)
        return self.bootstrap_layer_bytes + self.hot_blob_bytes + blobs

    @property
    def stored_bytes(self) -> int:
        """Blobs and bootstrap layer, as they travel."""
        blobs = sum(layer.blob_bytes for layer in self.layers)
        return self.bootstrap_layer_bytes + self.hot_blob_bytes + blobs


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """The whole: `digest` is what the tag names now, an image's or an index's."""

    digest: str
    media_type: str
    images: tuple[ImageReport, ...]
    skipped: int  # index entries that are no images, such as attestations
    superseded: int  # index entries of converted images whose ordinary ones were converted again
    seconds: float

    @property
    def already_converted(self) -> bool:
        """Whether there was nothing to convert."""
        return all(image.already_converted for image in self.images)

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`; totals are added to each image."""
        document = asdict(self)
        document["already_converted"] = self.already_converted
        for shown, image in zip(document["images"], self.images, strict=True):
            shown["source_bytes"] = image.source_bytes
            shown["tar_bytes"] = image.tar_bytes
            shown["stored_bytes"] = image.stored_bytes
            shown["new_bytes"] = image.new_bytes
        return document
