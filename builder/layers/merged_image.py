"""An ordinary image as a container would see it: all layers merged, and the digests of every file's chunks.

It is what a converted image is compared with. Layers are fetched, unpacked and hashed one after the other;
only the tree and the digests are kept, so no disk is needed. The rules of merging are the builder's own
(`overlay`), so what they get wrong no comparison shows.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Sequence

from builder.errors import SourceUnsupported
from builder.image_documents import SourceConfig, check_layers, is_converted, read_config
from builder.layers.layer_reader import read_layer
from builder.layers.overlay import empty_tree, merge_layer
from builder.progress import Progress
from rafs.codes import DIGEST_SIZE, Digester
from rafs.digests import digest_of
from rafs.tree import Node
from registry_client.manifest import Manifest
from registry_client.selection import config_bytes
from registry_client.sizes import megabytes
from registry_client.source import ImageSource


def ordinary_config(source: ImageSource, manifest: Manifest) -> SourceConfig:
    """The config of *manifest*, if that is an ordinary image that could be converted; reads nothing else.

    Raises:
        SourceUnsupported: it is not.
        RegistryError: of the source.
    """
    if is_converted(manifest):
        raise SourceUnsupported(
            f"image {manifest.digest} is a converted one; name the ordinary image to compare with"
        )
    check_layers(manifest)
    return read_config(manifest, config_bytes(source, manifest))


class MergedImage:
    """The files of one ordinary image; used by one thread."""

    def __init__(
        self,
        source: ImageSource,
        manifest: Manifest,
        config: SourceConfig,
        chunk_size: int,
        digesters: Sequence[Digester],
        progress: Progress,
    ) -> None:
        """Fetch and merge the layers of *manifest*, whose files are cut every *chunk_size* bytes; each chunk
        has its digest by all of *digesters*. *config* is its `ordinary_config`.

        Raises:
            LayerInvalid, LayerUnsupported: no image that could be converted.
            RegistryError: of the source.
        """
        self.root = empty_tree()
        self.dropped: Counter[str] = Counter()  # xattrs the format has no place for, by name
        self._digesters = tuple(digesters)
        self._digests: dict[Node, Sequence[bytes]] = {}
        for number, layer in enumerate(manifest.layers):
            step = f"unpack layer {number + 1}/{len(manifest.layers)}"
            progress.begin(step, layer.size)
            read = read_layer(
                _counted(source.read_blob(layer), progress, step),
                layer=layer.digest,
                diff_id=config.diff_ids[number],
                chunk_size=chunk_size,
                take=self._take,
                proceed=_nothing,
            )
            progress.finish(step, megabytes(read.tar_bytes))
            merge_layer(self.root, read.entries, layer=layer.digest, dropped=self.dropped)
            for entry in read.entries:
                if entry.node is not None and stat.S_ISREG(entry.node.mode):
                    self._digests[entry.node] = entry.digests

    def digests(self, node: Node, digester: Digester) -> Iterator[bytes]:
        """Those of the chunks of a regular file of the tree, by one of the digesters it was made for."""
        start = self._digesters.index(digester) * DIGEST_SIZE
        return (every[start : start + DIGEST_SIZE] for every in self._digests[node])

    def _take(self, chunk: bytes | memoryview) -> bytes:
        return b"".join(digest_of(digester)(chunk) for digester in self._digesters)


def _counted(pieces: Iterator[bytes], progress: Progress, step: str) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        progress.advance(step, len(piece))


def _nothing() -> None:
    """There is nobody else whose failure would end this."""
