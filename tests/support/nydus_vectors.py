"""Images made by Nydus' own tools, with what each must show: the vectors of the fixture collection.

It finds the parts of a vector (bootstrap, blob objects, sections of a blob), however it is packed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from rafs.blob_meta import BlobMeta, read_chunk_info
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.codes import BlobFeature
from rafs.errors import FormatInvalid
from rafs.tarfs import tar_blob, tar_pieces, with_chunks

from .fixtures import FIXTURES, fixture

_VECTORS = FIXTURES / "nydus" / "vectors"
_TAR_HEADER = 512


@dataclass(frozen=True)
class Image:
    """One RAFS image of a vector: nydusify's index has several, others one."""

    name: str  # for test ids
    bootstrap: bytes = field(repr=False)
    expect: dict[str, Any] = field(repr=False)  # as expect.json: "image", "blobs"
    files: list[dict[str, Any]] = field(repr=False)
    folder: Path  # of the vector
    cache_forms: dict[str, bytes] = field(repr=False)  # chunk info files beside the bootstrap, by blob id

    def blob_object(self, record: BlobRecord) -> bytes:
        """The object that holds the blob's chunks."""
        path: str = self.expect["blobs"][record.index]["file"]
        return (self.folder / path).read_bytes()

    def tables_object(self, record: BlobRecord) -> bytes:
        """The object that holds the blob's chunk info: another one in reference images."""
        path: str = self.expect["blobs"][record.index]["file"]
        return (self.folder / path).with_name(record.meta_object).read_bytes()

    def meta(self, bootstrap: Bootstrap, record: BlobRecord) -> BlobMeta:
        """The blob's chunks, read from the blob object itself."""
        if record.features & BlobFeature.TARFS:
            return tar_blob(record, [self.blob_object(record)], tar_pieces(bootstrap)[record.index])
        stored = self.tables_object(record)
        array = stored[record.ci_offset : record.ci_offset + record.ci_compressed_size]
        return BlobMeta(record, read_chunk_info(record, array), self.digests(bootstrap, record))

    def readable(self) -> tuple[Bootstrap, tuple[BlobMeta, ...]]:
        """The image and the chunks of its blobs, as every reader gets them."""
        bootstrap = Bootstrap(self.bootstrap)
        metas = tuple(self.meta(bootstrap, record) for record in bootstrap.blobs)
        return with_chunks(bootstrap, metas) if bootstrap.is_tarfs else bootstrap, metas

    def digests(self, bootstrap: Bootstrap, record: BlobRecord) -> bytes:
        """The chunk digests, from the object where merging dropped the rows of chunks no file uses."""
        try:
            return bootstrap.chunk_digests(record.index)
        except FormatInvalid:
            assert record.features & BlobFeature.INLINED_CHUNK_DIGEST
            header = record.ci_offset + record.ci_compressed_size + 4096
            start = header + (_TAR_HEADER if record.features & BlobFeature.HAS_TAR_HEADER else 0)
            return self.tables_object(record)[start : start + 32 * record.chunk_count]


def vector_names() -> list[str]:
    """The vectors there are; empty where the collection is absent."""
    return sorted(path.name for path in _VECTORS.iterdir()) if _VECTORS.exists() else []


@cache
def vector_images(name: str) -> list[Image]:
    """The images of vector *name*; skips the asking test where it is absent."""
    folder = fixture(f"nydus/vectors/{name}")
    expect = json.loads((folder / "expect.json").read_text())
    if "images" not in expect:
        raw = (folder / "image.boot").read_bytes()
        return [Image(name, raw, expect, expect["files"], folder, {})]
    blobs = folder / "layout" / "blobs" / "sha256"
    images = []
    for number, image in enumerate(expect["images"]):
        digest = image["manifest"]["digest"].removeprefix("sha256:")
        manifest = json.loads((blobs / digest).read_bytes())
        layer = (blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")).read_bytes()
        members = _members(gzip.decompress(layer))
        cache_forms = {
            path.removeprefix("image/").removesuffix(".blob.meta"): content
            for path, content in members.items()
            if path.endswith(".blob.meta")
        }
        bootstrap = members["image/image.boot"]
        images.append(Image(f"{name}-{number}", bootstrap, image, expect["files"], folder, cache_forms))
    return images


def _members(tar_bytes: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar_bytes)) as tar:
        return {
            member.name: content.read() for member in tar if (content := tar.extractfile(member)) is not None
        }


def one_vector(name: str) -> Image:
    """The only image of vector *name*."""
    (image,) = vector_images(name)
    return image


def path_of(row: dict[str, Any]) -> bytes:
    """The path of a row of `files`, as bytes."""
    return unquote_to_bytes(row["path"])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def all_images(select: Callable[[Image], bool] = lambda _: True) -> list[Any]:
    """Every selected image as a parameter of pytest; one that skips where the collection is absent."""
    images = [image for name in vector_names() for image in vector_images(name) if select(image)]
    if not images:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no vectors at {_VECTORS}"))]
    return [pytest.param(image, id=image.name) for image in images]
