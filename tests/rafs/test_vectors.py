"""Images of Nydus' own tools read exactly as they were made: tree, attributes, blobs, bytes."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.bootstrap import Bootstrap, Inode
from rafs.codes import BlobFeature, Digester
from rafs.units import UnitDecoder, decode_unit
from tests.support.nydus_vectors import Image, all_images, one_vector, path_of, sha256

_TYPES = {
    "dir": stat.S_ISDIR,
    "file": stat.S_ISREG,
    "symlink": stat.S_ISLNK,
    "fifo": stat.S_ISFIFO,
    "chr": stat.S_ISCHR,
    "blk": stat.S_ISBLK,
}
_SPELLED_BY_THE_TOOL = {"TARTFS_MODE": "TARFS_MODE", "ENCRYPTION_ASE_128_XTS": "ENCRYPTION_AES_128_XTS"}

every_image = pytest.mark.parametrize("image", all_images())
every_published_image = pytest.mark.parametrize("image", all_images(lambda image: bool(image.cache_forms)))


def _row(bootstrap: Bootstrap, inode: Inode, expected: dict[str, Any]) -> dict[str, Any]:
    """The attributes of *inode*, spelled as in a row of `files`, so that a difference reads well."""
    kind = next(name for name, test in _TYPES.items() if test(inode.mode))
    row: dict[str, Any] = {
        "type": kind,
        "uid": inode.uid,
        "gid": inode.gid,
        "nid": inode.nid,
        "nlink": inode.nlink,
    }
    row["mode"] = f"{stat.S_IMODE(inode.mode):04o}" if kind != "symlink" else expected["mode"]
    row["mtime"] = [inode.mtime, inode.mtime_ns]
    xattrs = {name.decode("latin-1"): value.hex() for name, value in bootstrap.xattrs(inode).items()}
    if xattrs:
        row["xattrs"] = xattrs
    if kind == "symlink":
        row["target"] = bootstrap.symlink_target(inode)
    if kind in ("chr", "blk"):
        row["rdev"] = [os.major(inode.rdev), os.minor(inode.rdev)]
    if kind in ("file", "symlink"):
        row["size"] = inode.size
    return row


def _expected(row: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key not in ("path", "sha256", "hardlink")}
    if "target" in kept:
        kept["target"] = path_of({"path": kept["target"]})
    return kept


@every_image
def test_every_path_has_the_expected_attributes(image: Image) -> None:
    bootstrap = Bootstrap(image.bootstrap)
    found = dict(bootstrap.walk())
    expected = {path_of(row): row for row in image.files}
    assert sorted(found) == sorted(expected)
    for path, inode in found.items():
        assert _row(bootstrap, inode, expected[path]) == _expected(expected[path]), path


@every_image
def test_lookup_finds_every_entry_and_nothing_else(image: Image) -> None:
    bootstrap = Bootstrap(image.bootstrap)
    for _, inode in bootstrap.walk():
        if stat.S_ISDIR(inode.mode):
            names = {name: nid for name, nid, _ in bootstrap.entries(inode)}
            assert {name: bootstrap.lookup(inode, name) for name in names} == names
            for absent in (b"\x01", b"no such name", b"\xff" * 255, *(name + b"\x01" for name in names)):
                assert bootstrap.lookup(inode, absent) is None


@every_image
def test_the_superblocks_say_what_the_tool_printed(image: Image) -> None:
    bootstrap, expected = Bootstrap(image.bootstrap), image.expect["image"]
    paths: dict[int, bytes] = {}
    for path, inode in bootstrap.walk():
        paths.setdefault(inode.nid, path)
    assert bootstrap.inode_count == expected["inodes"]
    assert bootstrap.chunk_size == expected["chunk_size"]
    assert bootstrap.root_nid == expected["root_nid"]
    assert {flag.name for flag in bootstrap.flags} == {
        _SPELLED_BY_THE_TOOL.get(name, name) for name in expected["flags"]
    }
    assert [paths[nid] for nid in bootstrap.prefetch_nids()] == [
        path_of({"path": path}) for path in expected["prefetch"]
    ]


@every_image
def test_the_blob_table_says_what_the_tool_printed(image: Image) -> None:
    bootstrap = Bootstrap(image.bootstrap)
    for record, slot, row in zip(bootstrap.blobs, bootstrap.header.slots, image.expect["blobs"], strict=True):
        found = {
            "id": record.id,
            "features": {feature.name for feature in record.features},
            "compressor": record.compressor.name.lower(),
            "ci_compressor": record.ci_compressor.name.lower(),
            "digester": "Sha256" if record.digester is Digester.SHA256 else "Blake3",
            "cipher": record.cipher.name.lower().replace("_", ""),
            "mapped_blkaddr": slot.mapped_block,
            "toc_digest": record.toc_digest.hex(),
            "meta_digest": record.meta_digest.hex(),
            "key": record.meta_digest.hex(),
        }
        expected = {
            **row,
            "features": set(row["features"]),
            "cipher": row["cipher"].lower(),
        }
        for key in row.keys() - {"data_size", "file"}:
            assert found.get(key, getattr(record, key, None)) == expected[key], key


@every_image
def test_every_file_has_its_bytes(image: Image) -> None:
    bootstrap, metas = image.readable()
    chunks = [_chunks(image, meta) for meta in metas]
    inodes = dict(bootstrap.walk())
    for row in image.files:
        if row["type"] != "file":
            continue
        extents = bootstrap.extents(inodes[path_of(row)])
        for extent in extents:
            chunk = metas[extent.blob_index].chunk(extent.chunk_index)
            assert (chunk.offset, chunk.size) == (extent.blob_offset, extent.size), row["path"]
        content = b"".join(chunks[extent.blob_index][extent.chunk_index] for extent in extents)
        assert sha256(content) == row["sha256"], row["path"]


def _chunks(image: Image, meta: BlobMeta) -> list[bytes]:
    """All chunks of a blob, decoded unit by unit, in both ways."""
    stored = image.blob_object(meta.record)
    found: list[bytes] = []
    for index in range(meta.unit_count):
        unit = meta.unit(index)
        compressed = stored[unit.compressed_offset :][: unit.compressed_size]
        whole = decode_unit(meta, unit, compressed)
        decoder = UnitDecoder(meta, unit)
        pieces = [compressed[at : at + 1000] for at in range(0, len(compressed), 1000)]
        streamed = [pair for piece in pieces for pair in decoder.feed(piece)]
        decoder.finish()
        assert b"".join(content for _, content in streamed) == whole
        assert [meta.unit_of_chunk(chunk.index) for chunk, _ in streamed] == [index] * unit.chunk_count
        found += [content for _, content in streamed]
    return found


@every_published_image
def test_a_published_chunk_info_file_gives_the_same_units(image: Image) -> None:
    bootstrap = Bootstrap(image.bootstrap)
    published = [record for record in bootstrap.blobs if record.meta_object in image.cache_forms]
    assert published
    for record in published:
        meta = image.meta(bootstrap, record)
        form = image.cache_forms[record.meta_object]
        found = parse_blob_meta(record, form, image.digests(bootstrap, record))
        assert [found.unit(i) for i in range(found.unit_count)] == [
            meta.unit(i) for i in range(meta.unit_count)
        ]


def test_an_image_without_data_has_no_blobs() -> None:
    bootstrap = Bootstrap(one_vector("dir-metadata-only").bootstrap)
    assert bootstrap.blobs == ()
    assert not any(bootstrap.extents(inode) for _, inode in bootstrap.walk() if stat.S_ISREG(inode.mode))


def test_compact_inodes_carry_the_build_time() -> None:
    bootstrap = Bootstrap(one_vector("compact").bootstrap)
    inodes = [inode for _, inode in bootstrap.walk() if not inode.extended]
    assert inodes
    assert {inode.mtime for inode in inodes} == {bootstrap.superblock.build_time}


def test_a_compact_inode_may_be_younger_than_the_build_time_as_linux_has_it() -> None:
    raw = one_vector("compact").bootstrap
    bootstrap = Bootstrap(raw)
    path, inode = next((path, inode) for path, inode in bootstrap.walk() if not inode.extended)
    at = inode.xattr_offset - 32 + 12
    for later in (1, 0xFFFF_FFFF):
        changed = Bootstrap(raw[:at] + later.to_bytes(4, "little") + raw[at + 4 :])
        assert dict(changed.walk())[path].mtime == bootstrap.superblock.build_time + later


def test_batch_members_share_units() -> None:
    image = one_vector("dir-batch")
    bootstrap = Bootstrap(image.bootstrap)
    meta = image.meta(bootstrap, bootstrap.blobs[0])
    assert bootstrap.blobs[0].features & BlobFeature.BATCH
    assert max(meta.unit(i).chunk_count for i in range(meta.unit_count)) > 1
