"""An ordinary image as a container would see it: all layers merged, and the bytes of every file at hand.

It is what a converted image is compared with. Layers are fetched and unpacked one after the other into
scratch files, which takes the room of the unpacked image; the tree is in memory. The rules of merging are
the builder's own (`overlay`), so what they get wrong no comparison shows.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from builder.errors import SourceUnsupported
from builder.file_chunks import Digest, file_chunks
from builder.image_documents import check_layers, is_converted, read_config
from builder.overlay import empty_tree, merge_layer
from builder.progress import Progress, megabytes
from builder.scratch import ScratchFile
from builder.spool import spool_layer
from builder.tar_index import TarEntry, read_entries
from rafs.tree import Node
from registry_client.manifest import Manifest
from registry_client.source import ImageSource


class MergedImage:
    """The files of one ordinary image; used by one thread, and to be closed."""

    def __init__(
        self, source: ImageSource, manifest: Manifest, directory: Path | None, progress: Progress
    ) -> None:
        """Fetch and merge the layers of *manifest*; scratch files lie in *directory*.

        Raises:
            SourceUnsupported, LayerInvalid, LayerUnsupported: no image that could be converted.
            SpoolFull, SpoolFailed: no room, or no such directory.
            RegistryError: of the source.
        """
        if is_converted(manifest):
            raise SourceUnsupported(
                f"image {manifest.digest} is a converted one; name the ordinary image to compare with"
            )
        check_layers(manifest)
        config = read_config(manifest, b"".join(source.read_blob(manifest.config)))
        self.root = empty_tree()
        self.dropped: Counter[str] = Counter()  # xattrs the format has no place for, by name
        self._files: dict[Node, tuple[TarEntry, ScratchFile]] = {}
        with ExitStack() as owned:
            for number, layer in enumerate(manifest.layers):
                step = f"unpack layer {number + 1}/{len(manifest.layers)}"
                progress.begin(step, layer.size)
                spool = owned.enter_context(
                    spool_layer(
                        _counted(source.read_blob(layer), progress, step),
                        layer=layer.digest,
                        diff_id=config.diff_ids[number],
                        directory=directory,
                        proceed=_nothing,
                    )
                )
                progress.finish(step, megabytes(spool.size))
                entries = list(read_entries(spool, layer.digest))
                merge_layer(self.root, entries, layer=layer.digest, dropped=self.dropped)
                for entry in entries:
                    if entry.node is not None and stat.S_ISREG(entry.node.mode):
                        self._files[entry.node] = entry, spool
            self._owned = owned.pop_all()

    def chunks(self, node: Node, chunk_size: int, digest: Digest) -> Iterator[bytes]:
        """The *digest* of each *chunk_size* bytes of a regular file of the tree.

        Raises:
            SpoolFailed: the disk reported an error.
        """
        entry, spool = self._files[node]
        return (found for _, _, found in file_chunks(entry, spool, chunk_size, digest))

    def close(self) -> None:
        """Give the space back."""
        self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _counted(pieces: Iterator[bytes], progress: Progress, step: str) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        progress.advance(step, len(piece))


def _nothing() -> None:
    """There is nobody else whose failure would end this."""
