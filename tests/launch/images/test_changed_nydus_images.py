"""Any change to an image of Nydus' tools gives the right bytes or a typed error, for each kind of blob."""

from __future__ import annotations

import stat
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.errors import ImageInvalid
from launch.images.lazy_image import LazyImage, open_image
from rafs.codes import RafsFlag
from rafs.errors import RafsError
from rafs.units import UnitDecoder
from registry_client.errors import RegistryError
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.support.nydus_vectors import one_vector, path_of, sha256

KINDS = ["chunkdict", "dir-batch", "dir-encrypt", "dir-lz4-prefetch", "dir-notoc", "merge3-oci", "tar-inline",
         "tar-ref", "tarfs", "zran"]  # fmt: skip
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 24), st.integers(0, 255)), min_size=1, max_size=5)

every_kind = pytest.mark.parametrize("name", KINDS)


@cache
def _parts(name: str) -> dict[str, bytes]:
    folder = one_vector(name).folder
    return {
        "image.boot": (folder / "image.boot").read_bytes(),
        **{path.name: path.read_bytes() for path in sorted((folder / "blobs").iterdir())},
    }


def _changed(raw: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(raw)
    for at, value in changes:
        changed[at % len(raw)] = value
    return bytes(changed[: None if cut is None else cut % len(raw)])


def _open(parts: dict[str, bytes], directory: Path) -> LazyImage:
    for name, raw in parts.items():
        (directory / name).write_bytes(raw)
    return open_image(
        parse_reference(f"rafs:{directory / 'image.boot'}"), RegistryOptions(), directory / "root"
    )


def _contents(image: LazyImage) -> dict[bytes, bytes | None]:
    """The bytes of every file; None where a chunk of it is refused."""
    spaces = [_Space(image, index) for index in range(len(image.blobs))]
    contents: dict[bytes, bytes | None] = {}
    for path, inode in image.bootstrap.walk():
        if stat.S_ISREG(inode.mode):
            parts = [
                spaces[part.blob_index](part.blob_offset, part.size)
                for part in image.bootstrap.extents(inode)
            ]
            contents[path] = None if None in parts else b"".join(part for part in parts if part is not None)
    return contents


class _Space:
    """The address space of one blob, decoded chunk by chunk as far as it goes."""

    def __init__(self, image: LazyImage, index: int) -> None:
        meta = image.blobs[index]
        self._bytes = bytearray(meta.uncompressed_size)
        self._good = bytearray(meta.uncompressed_size)
        for number in range(meta.unit_count):
            unit = meta.unit(number)
            decoder = UnitDecoder(meta, unit)
            try:
                for piece in image.blob_source.read_at(
                    meta.id, unit.compressed_offset, unit.compressed_size
                ):
                    for chunk, content in decoder.feed(piece):
                        self._bytes[chunk.offset : chunk.offset + chunk.size] = content
                        self._good[chunk.offset : chunk.offset + chunk.size] = b"\1" * chunk.size
            except (RafsError, RegistryError):
                continue

    def __call__(self, offset: int, size: int) -> bytes | None:
        good = self._good[offset : offset + size]
        return bytes(self._bytes[offset : offset + size]) if good.count(1) == size else None


@every_kind
@given(which=st.integers(0, 7), changes=CHANGES, cut=st.none() | st.integers(0, 1 << 24))
def test_changed_blobs_never_give_another_byte(
    name: str, which: int, changes: list[tuple[int, int]], cut: int | None
) -> None:
    parts = dict(_parts(name))
    blobs = sorted(parts.keys() - {"image.boot"})
    victim = blobs[which % len(blobs)]
    parts[victim] = _changed(parts[victim], changes, cut)
    with tempfile.TemporaryDirectory() as directory:
        try:
            contents = _contents(_open(parts, Path(directory)))
        except (RafsError, ImageInvalid, RegistryError):
            return
    for row in one_vector(name).files:
        if row["type"] == "file" and contents[path_of(row)] is not None:
            assert sha256(contents[path_of(row)] or b"") == row["sha256"], row["path"]


@every_kind
@given(changes=CHANGES, cut=st.none() | st.integers(0, 1 << 24))
def test_a_changed_bootstrap_gives_an_image_or_a_typed_error(
    name: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    parts = dict(_parts(name))
    parts["image.boot"] = _changed(parts["image.boot"], changes, cut)
    with tempfile.TemporaryDirectory() as directory:
        try:
            image = _open(parts, Path(directory))
            if not image.bootstrap.flags & RafsFlag.TARFS_MODE:
                _contents(image)
        except (RafsError, ImageInvalid, RegistryError):
            return
