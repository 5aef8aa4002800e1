"""What of a conversion is done already: layers that an earlier image has, chunks that a dictionary has.

Without a dictionary the result is the same as that of converting everything: only whole layers, over the
same lower ones, with the same options, are taken from an earlier image. A dictionary is an input like the
source: its image decides which chunks are not stored again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from builder.errors import SourceUnsupported
from builder.known_image import KnownBlob, KnownImage
from builder.layer_blob import ImagePacker, PackOptions
from builder.layer_record import LayerFacts, RecordInvalid
from builder.layers.overlay import empty_tree
from builder.shelf import Shelf, open_dictionary
from rafs.tree import Node
from registry_client.errors import NotFound
from registry_client.platform import Platform
from registry_client.source import ImageDestination, ImageSource

_log = logging.getLogger(__name__)

DICTIONARY: Final = "+dictionary"


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A converted image to share chunks with; *repository* is set where blobs can be mounted from it."""

    source: ImageSource
    repository: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where a conversion begins: the tree after the layers that are known, and the facts about these.

    The first *adopted* blobs have the keys that they have in the record of *image*.
    """

    root: Node
    layers: tuple[LayerFacts, ...]
    image: KnownImage | None
    adopted: int = 0

    @property
    def looks(self) -> Mapping[str, Any]:
        """What the hot list found in files of these layers."""
        return {} if self.image is None or self.image.record is None else self.image.record.looks


def way(pack: PackOptions, dictionaries: Sequence[Dictionary]) -> str:
    """The options that decide what a layer is turned into, in one word."""
    return f"{pack.chunk_size}/{pack.batch_size}/{pack.level}{DICTIONARY if dictionaries else ''}"


def start_from_shelf(
    shelf: Shelf, diff_ids: Sequence[str], pack: PackOptions, packer: ImagePacker, there: ImageDestination
) -> Start:
    """As far as an image on *shelf* leads whose blobs are *there*; *packer* adopts them, lowest first."""
    found = shelf.best(diff_ids, way(pack, ()))
    if found is None:
        return Start(empty_tree(), (), None)
    image, count = found
    assert image.record is not None
    layers = image.record.layers[:count]
    needed = [image.record.blobs[layer.blob] for layer in layers if layer.blob is not None]
    if needed != list(image.record.blobs[: len(needed)]):
        return Start(empty_tree(), (), None)
    blobs = [image.blobs[blob_id] for blob_id in needed]
    if any(blob.tables.chunk_size != pack.chunk_size for blob in blobs):
        return Start(empty_tree(), (), None)
    if not all(there.has_blob(blob.entry) for blob in blobs):
        return Start(empty_tree(), (), None)
    root = _tree(image, count, blobs, pack)
    if root is None:
        return Start(empty_tree(), (), None)
    for blob in blobs:
        packer.adopt(blob)
    return Start(root, layers, image, len(blobs))


def start_from_dictionaries(
    dictionaries: Sequence[Dictionary],
    platform: Platform,
    diff_ids: Sequence[str],
    pack: PackOptions,
    packer: ImagePacker,
) -> Start:
    """As far as the best of *dictionaries* leads; *packer* adopts all their blobs, that one's first.

    Raises:
        SourceUnsupported: one is no image to share chunks with.
        RegistryError: one cannot be had.
    """
    images = [open_dictionary(one.source, platform) for one in dictionaries]
    for image in images:
        if image.blobs and image.chunk_size != pack.chunk_size:
            raise SourceUnsupported(
                f"image {image.manifest.digest} has chunks of {image.chunk_size} bytes, asked for were "
                f"{pack.chunk_size}; chunks can be shared only with --chunk-size {image.chunk_size}"
            )
    # Keys must be those of the record, so an image with blobs that nobody can open shares only chunks.
    whole = [one for one in images if one.record is not None and {*one.record.blobs} <= {*one.blobs}]
    best = max(whole, key=lambda image: image.shared_layers(diff_ids), default=None)
    count = best.shared_layers(diff_ids) if best is not None else 0
    own = [] if best is None or best.record is None else [best.blobs[one] for one in best.record.blobs]
    root = _tree(best, count, own, pack) if best is not None and count else None
    adopted: dict[str, KnownBlob] = {}
    if root is not None:
        adopted.update((blob.tables.id, blob) for blob in own)
    for image in images:
        for blob_id, blob in image.blobs.items():
            adopted.setdefault(blob_id, blob)
    for blob in adopted.values():
        packer.adopt(blob)
    if best is None or best.record is None or root is None:
        return Start(empty_tree(), (), None)
    return Start(root, best.record.layers[:count], best, len(best.record.blobs))


def repository_of(blob: KnownBlob, dictionaries: Sequence[Dictionary]) -> str | None:
    """Where a dictionary's blob can be mounted from, if anywhere."""
    return next((one.repository for one in dictionaries if one.source is blob.source), None)


def _tree(image: KnownImage, count: int, blobs: Sequence[KnownBlob], pack: PackOptions) -> Node | None:
    try:
        return image.tree_after(count, blobs, pack.chunk_size)
    except (RecordInvalid, NotFound) as error:
        _log.warning("%s; all layers are converted anew", error)
        return None
