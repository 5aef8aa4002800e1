"""Where the store's bytes come from: an image's blobs by id, over an image source or as files in a directory.

The adapter between `registry_client`, which knows descriptors, and `chunk_store`, which knows blob ids. What
it gives is not verified: the store checks every chunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from launch.errors import ImageInvalid
from rafs.blob_record import BlobRecord
from rafs.codes import BlobFeature
from registry_client.digest import Digest
from registry_client.errors import NotFound, RangeInvalid
from registry_client.manifest import Descriptor, Manifest
from registry_client.media_type import MediaType
from registry_client.source import ImageSource, Mirrored, Networked

_PIECE = 256 << 10  # bytes


class ImageBlobs:
    """The blobs of one manifest (a `chunk_store.BlobSource`). Thread-safe; the source stays the caller's."""

    def __init__(
        self, source: ImageSource, manifest: Manifest, records: Iterable[BlobRecord], *, once: bool = False
    ) -> None:
        """*records* are those of the bootstrap: the layers of the ordinary image that it refers to lie in the
        same repository, but are not in the manifest. *once*: whoever reads tries again himself, as the store
        does, which tells its readers meanwhile what stands in the way.
        """
        self._source = source
        self._read = source.read_once if once and isinstance(source, Networked) else source.read_at
        by_id = {
            record.id: Descriptor(
                MediaType.OCI_LAYER_GZIP, Digest(f"sha256:{record.id}"), record.compressed_size
            )
            for record in records
            if record.features & BlobFeature.SEPARATE and record.is_named_by_digest
        }
        by_id |= {layer.digest.partition(":")[2]: layer for layer in manifest.layers[:-1]}
        self._by_id: Mapping[str, Descriptor] = by_id

    def object_size(self, blob_id: str) -> int:
        """Bytes of the blob's object.

        Raises:
            ImageInvalid: the manifest has no such layer.
        """
        return self._descriptor(blob_id).size

    def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
        """As `chunk_store.remote.BlobSource`."""
        return self._read(self._descriptor(blob_id), offset, size)

    def distrust(self, blob_id: str, offset: int, size: int) -> None:
        """As `chunk_store.remote.BlobSource`: a source that has them from several places asks another."""
        if isinstance(self._source, Mirrored):
            self._source.distrust(self._descriptor(blob_id), offset, size)

    def _descriptor(self, blob_id: str) -> Descriptor:
        try:
            return self._by_id[blob_id]
        except KeyError as error:
            raise ImageInvalid(
                f"the bootstrap needs blob {blob_id}, which is not among the manifest's layers"
            ) from error


class FileBlobs:
    """Blobs as files named by their id in *directory* (a `BlobSource`). Thread-safe."""

    def __init__(self, directory: Path, known: Mapping[str, Path] | None = None) -> None:
        """*known* blobs lie elsewhere."""
        self._directory = directory
        self._known = known or {}

    def object_size(self, blob_id: str) -> int:
        """Bytes of the blob's file.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._path(blob_id).stat().st_size
        except FileNotFoundError as error:
            raise self._absent(blob_id) from error

    def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
        """As `chunk_store.remote.BlobSource`."""
        try:
            file = os.open(self._path(blob_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise self._absent(blob_id) from error
        try:
            end = offset + size
            while offset < end:
                piece = os.pread(file, min(_PIECE, end - offset), offset)
                if not piece:
                    raise RangeInvalid(f"blob {self._path(blob_id)} ends at {offset}, expected {end}")
                offset += len(piece)
                yield piece
        finally:
            os.close(file)

    def distrust(self, blob_id: str, offset: int, size: int) -> None:
        """Nothing: there is no other place to read them from."""

    def _path(self, blob_id: str) -> Path:
        return self._known.get(blob_id) or self._directory / blob_id

    def _absent(self, blob_id: str) -> NotFound:
        return NotFound(
            f"there is no blob {blob_id} in {self._directory}; name its directory with --blob-dir"
        )
