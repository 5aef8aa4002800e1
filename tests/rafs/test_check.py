"""The checks find each broken rule, find nothing in good images, and survive every byte."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rafs.check
from rafs.blob_meta import parse_blob_meta
from rafs.bootstrap import MAX_PATH, Bootstrap
from rafs.check import MAX_FINDINGS, check_blob_meta, check_bootstrap, check_chunks
from rafs.codes import BlobFeature
from rafs.dump import dump_lines
from rafs.errors import FormatInvalid, FormatUnsupported, RafsError
from tests.support.bootstrap_edits import Edit, Editor, edited
from tests.support.images import Image, image_of
from tests.support.nydus_vectors import Image as Vector
from tests.support.nydus_vectors import all_images
from tests.support.trees import char_device, directory, fifo, file, hardlink, symlink, tree

CHUNK = 64 << 10


@cache
def _image() -> Image:
    """Two blobs, a file in one extent and one in several, every type, a directory of several blocks."""
    noise = random.Random(1)
    whole, shared = noise.randbytes(3 * CHUNK + 100), noise.randbytes(CHUNK)
    return image_of(
        tree(
            file(b"whole", whole),
            directory(
                b"dir",
                file(b"apart", shared + noise.randbytes(CHUNK) + shared),
                file(b"empty"),
                file(b"name", b"content", xattrs={b"user.note": b"hello"}, blob=1),
                symlink(b"link", b"target-of-the-link"),
                char_device(b"null", 1, 3),
                fifo(b"pipe"),
            ),
            directory(b"other", directory(b"inner"), hardlink(b"again", b"/dir/name")),
            directory(b"many", *[file(f"file-{number:04}".encode(), b"x") for number in range(400)]),
        ),
        chunk_size=CHUNK,
        prefetch=[b"/dir/name"],
    )


@cache
def _rows_by_blob() -> dict[int, int]:
    """The number of the first row of each blob."""
    rows = list(Bootstrap(_image().bootstrap).chunk_rows())
    return {blob: next(n for n, row in enumerate(rows) if row.blob_index == blob) for blob in (0, 1)}


def _row(blob: int, **changes: object) -> Edit:
    return lambda editor: editor.row(_rows_by_blob()[blob], **changes)


def _plus(step: int) -> object:
    return lambda value: value + step


# The first finding's rule, whether the reader refuses to open it, and the change that makes it.
CORPUS: dict[str, tuple[str, bool, Edit]] = {
    "magic": ("magic", True, lambda e: e.superblock(magic=0xE0F5E1E3)),
    "checksum": ("checksum", True, lambda e: e.superblock(checksum=1)),
    "compat bit missing": ("feature-compat", True, lambda e: e.superblock(feature_compat=0)),
    "compat checksum bit": ("feature-compat", False, lambda e: e.superblock(feature_compat=0x4000_0001)),
    "block size": ("block-size", True, lambda e: e.superblock(block_bits=13)),
    "extra slots": ("extra-slots", True, lambda e: e.superblock(extra_slots=1)),
    "no inodes": ("inode-count", True, lambda e: e.superblock(inode_count=0)),
    "inode count": ("inode-count", False, lambda e: e.superblock(inode_count=_plus(1))),
    "xattr block": ("xattr-block", True, lambda e: e.superblock(xattr_block=1)),
    "incompat": ("feature-incompat", True, lambda e: e.superblock(feature_incompat=0x1C)),
    "compression": ("compression-algorithms", True, lambda e: e.superblock(compression_algorithms=1)),
    "slot index": ("device-slot-index", True, lambda e: e.superblock(device_slot_index=12)),
    "no devices": ("blocks", True, lambda e: e.superblock(device_count=0)),
    "file cut off": ("file-size", True, lambda e: e.cut(-1)),
    "file of less than a block": ("file-size", True, lambda e: e.cut(4095)),
    "more devices than blobs can be": ("device-count", True, lambda e: e.superblock(device_count=0xFFFF)),
    "one device too many": ("blob-table", True, lambda e: e.superblock(device_count=3)),
    "meta beyond": ("meta-block", True, lambda e: e.superblock(meta_block=1 << 20)),
    "blocks": ("blocks", False, lambda e: e.superblock(blocks=_plus(1))),
    "root elsewhere": ("root", False, lambda e: e.superblock(root_nid=1)),
    "root is a file": ("root", False, lambda e: e.superblock(root_nid=e.inode_of(b"/whole").nid)),
    "two compressors": ("flags-compressor", True, lambda e: e.extended(flags=lambda flags: flags | 1)),
    "other compressor": (
        "flags-compressor",
        False,
        lambda e: e.extended(flags=lambda flags: flags & ~0x80 | 1),
    ),
    "no digest": ("flags-digest", True, lambda e: e.extended(flags=lambda flags: flags & ~4)),
    "other digest": ("flags-digest", False, lambda e: e.extended(flags=lambda flags: flags ^ 0xC)),
    "unknown flag": ("flags", True, lambda e: e.extended(flags=lambda flags: flags | 0x400)),
    "high flag": ("flags", True, lambda e: e.extended(flags=lambda flags: flags | 1 << 32)),
    "xattr flag": ("flags-xattr", False, lambda e: e.extended(flags=lambda flags: flags & ~0x20)),
    "inlined digests": (
        "flags-inlined-digest",
        False,
        lambda e: e.blob(0, features=lambda value: value & ~BlobFeature.INLINED_CHUNK_DIGEST),
    ),
    "chunk size odd": ("chunk-size", True, lambda e: e.extended(chunk_size=CHUNK - 1)),
    "chunk size small": ("chunk-size", True, lambda e: e.extended(chunk_size=2048)),
    "chunk size other": ("blob-chunk-size", True, lambda e: e.extended(chunk_size=CHUNK * 2)),
    "blob table offset": ("blob-table", True, lambda e: e.extended(blob_table_offset=_plus(8))),
    "blob table size": ("blob-table", True, lambda e: e.extended(blob_table_size=_plus(8))),
    "chunk table offset": ("chunk-table", True, lambda e: e.extended(chunk_table_offset=_plus(8))),
    "chunk table size": ("chunk-table", True, lambda e: e.extended(chunk_table_size=_plus(-1))),
    "chunk table beyond": ("table-bounds", True, lambda e: e.extended(chunk_table_size=80 << 20)),
    "tables overlap": ("table-overlap", True, lambda e: e.extended(chunk_table_offset=0x1000)),
    "prefetch offset": ("prefetch-table", True, lambda e: e.extended(prefetch_table_offset=_plus(4))),
    "prefetch size": ("prefetch-table", True, lambda e: e.extended(prefetch_table_size=3)),
    "slot blocks 0": ("slot-blocks", True, lambda e: e.slot(0, blocks=0)),
    "slot blocks": ("slot-blocks", False, lambda e: e.slot(0, blocks=_plus(1))),
    "slot over the bootstrap": ("slot-mapped", False, lambda e: e.slot(1, mapped_block=2)),
    "slot tag": ("slot-tag", False, lambda e: e.slot(0, tag=b"f" * 64)),
    "slot tag twice": ("slot-tag", True, lambda e: _same_tags(e)),
    "blob id": ("blob-entry", True, lambda e: e.blob(0, blob_id=b"../" + b"a" * 61)),
    "blob id none": ("blob-entry", True, lambda e: e.blob(0, blob_id=b"")),
    "blob id this folder": ("blob-entry", True, lambda e: e.blob(0, blob_id=b".")),
    "blob id the folder above": ("blob-entry", True, lambda e: e.blob(0, blob_id=b"..")),
    "blob id of a terminal": ("blob-entry", True, lambda e: e.blob(0, blob_id=b"\x1b[2J")),
    "blob id with a zero": ("blob-entry", True, lambda e: e.blob(0, blob_id=b"a\0b")),
    "blob id no text": ("blob-entry", True, lambda e: e.blob(0, blob_id=b"a\xff")),
    "blob index": ("blob-index", True, lambda e: e.blob(1, blob_index=0)),
    "blob chunk size": ("blob-chunk-size", True, lambda e: e.blob(0, chunk_size=CHUNK * 2)),
    "blob chunk count": ("blob-ci-size", True, lambda e: e.blob(0, chunk_count=_plus(1000))),
    "blob no chunks": ("blob-chunk-count", True, lambda e: e.blob(0, chunk_count=0)),
    "blob compressor": ("blob-entry", True, lambda e: e.blob(0, compressor=4)),
    "blob digester": ("blob-entry", True, lambda e: e.blob(0, digester=2)),
    "blob cipher": ("blob-cipher", True, lambda e: e.blob(0, cipher=1)),
    "blob not aligned": ("blob-aligned", True, lambda e: e.blob(0, features=lambda value: value & ~1)),
    "blob feature": ("blob-features", True, lambda e: e.blob(0, features=lambda value: value | 0x1000)),
    "blob not V2": ("blob-needs-v2", True, lambda e: e.blob(0, features=lambda value: value & ~4)),
    "blob not batch": ("blob-ci-size", True, lambda e: e.blob(0, features=lambda value: value & ~0x80)),
    "blob ci size": ("blob-ci-size", True, lambda e: e.blob(0, ci_uncompressed_size=8)),
    "blob huge": ("blob-size", True, lambda e: e.blob(0, compressed_size=1 << 41)),
    "blob space": ("slot-blocks", False, lambda e: e.blob(0, uncompressed_size=_plus(4096))),
    "row blob": ("row-blob", False, _row(0, blob_index=2)),
    "row index": ("row-fields", False, _row(0, chunk_index=1 << 20)),
    "row index of another": ("row-place", False, _row(0, chunk_index=lambda index: index ^ 1)),
    "row size": ("row-fields", False, _row(0, size=CHUNK + 1)),
    "row size 0": ("row-fields", False, _row(0, size=0)),
    "row offset odd": ("row-fields", False, _row(0, offset=1)),
    "row offset": ("row-place", False, _row(0, offset=_plus(4096))),
    "row beyond": ("row-fields", False, _row(0, offset=1 << 40)),
    "row stored beyond": ("row-fields", False, _row(0, compressed_offset=1 << 50)),
    "row of one place, another size": ("row-twice", False, lambda e: _same_place(e)),
    "row flags": ("row-fields", False, _row(0, flags=0x100)),
    "row digest": ("row-fields", False, _row(0, digest=bytes(32))),
    "chunk size by row": ("chunk-size", False, _row(1, size=5)),
    "entry device 0": ("chunk-device", False, lambda e: e.chunk_entry(b"/whole", 1, device=0)),
    "entry device": ("chunk-device", False, lambda e: e.chunk_entry(b"/whole", 1, device=3)),
    "entry index": ("chunk-index", False, lambda e: e.chunk_entry(b"/whole", 0, index_high=9)),
    "entry index of another": ("chunk-row", False, lambda e: e.chunk_entry(b"/whole", 0, index_low=_plus(1))),
    "entry block": ("chunk-row", False, lambda e: e.chunk_entry(b"/whole", 0, block=_plus(1))),
    "entry block beyond": ("chunk-block", False, lambda e: e.chunk_entry(b"/whole", 0, block=1 << 30)),
    "entry hole": ("chunk-block", False, lambda e: e.chunk_entry(b"/whole", 0, block=0xFFFF_FFFF)),
    "one extent apart": ("chunk-format", False, lambda e: e.inode(b"/dir/apart", i_u=0x20 | 6)),
    "extent too small": ("chunk-format", False, lambda e: e.inode(b"/whole", i_u=0x20 | 5)),
    "no indexes": ("chunk-format", False, lambda e: e.inode(b"/whole", i_u=4)),
    "48 bit": ("chunk-format", False, lambda e: e.inode(b"/whole", i_u=0x64)),
    "file larger": ("chunk-entries", False, lambda e: e.inode(b"/whole", size=1 << 40)),
    "file size": ("chunk-size", False, lambda e: e.inode(b"/dir/name", size=9)),
    "size negative": ("inode", False, lambda e: e.inode(b"/dir/name", size=1 << 63)),
    "file in plain layout": ("layout", False, lambda e: e.inode(b"/whole", i_format=1)),
    "fifo with bytes": ("layout", False, lambda e: e.inode(b"/dir/pipe", size=1)),
    "EROFS compression": ("inode", False, lambda e: e.inode(b"/whole", i_format=3)),
    "format bits": ("inode", False, lambda e: e.inode(b"/whole", i_format=0x19)),
    "mode without type": ("mode", False, lambda e: e.inode(b"/dir/pipe", mode=0o644)),
    "other type": ("entry-type", False, lambda e: e.inode(b"/dir/pipe", mode=0o140644)),
    "entry type": ("entry-type", False, lambda e: e.dirent(b"/dir", b"pipe", file_type=1)),
    "dot type": ("entry-type", False, lambda e: e.dirent(b"/dir", b".", file_type=1)),
    "dot dot type": ("entry-type", False, lambda e: e.dirent(b"/dir", b"..", file_type=0)),
    "file links": ("nlink", False, lambda e: e.inode(b"/dir/name", nlink=1)),
    "folder links": ("nlink", False, lambda e: e.inode(b"/other", nlink=2)),
    "high bits of a block": ("inode-reserved", False, lambda e: e.inode(b"/many", reserved=1)),
    "nanoseconds": ("mtime", False, lambda e: e.inode(b"/whole", mtime_nsec=1_000_000_000)),
    "xattr prefix": ("xattr", False, lambda e: e.write(e.inode_of(b"/dir/name").xattr_offset + 13, b"\x05")),
    "xattr cut off": ("xattr", False, lambda e: e.write(e.inode_of(b"/dir/name").xattr_offset + 14, b"\xff")),
    "xattr shared": ("xattr", False, lambda e: e.write(e.inode_of(b"/dir/name").xattr_offset + 4, b"\x01")),
    "xattr with NUL": ("xattr", False, lambda e: e.write(e.inode_of(b"/dir/name").xattr_offset + 18, b"\0")),
    "xattr area empty": ("xattr", False, lambda e: e.inode(b"/dir/empty", xattr_icount=1)),
    "order": ("directory-order", False, lambda e: e.replace(b"nullpipe", b"pipenull")),
    "name twice": ("directory-order", False, lambda e: e.replace(b"nullpipe", b"nullnull")),
    "name with slash": ("directory-block", False, lambda e: e.replace(b"nullpipe", b"nul/pipe")),
    "name offset": ("directory-block", False, lambda e: e.dirent(b"/dir", b"pipe", name_offset=5000)),
    "name offset 0": ("directory-block", False, lambda e: e.dirent(b"/dir", b".", name_offset=0)),
    "folder size 10": ("directory-block", False, lambda e: e.inode(b"/other/inner", size=10)),
    "folder size 0": ("directory-dots", False, lambda e: e.inode(b"/other/inner", size=0)),
    "folder elsewhere": ("content", False, lambda e: e.inode(b"/many", i_u=1 << 20)),
    "tail crosses a block": ("content", False, lambda e: e.inode(b"/other/inner", size=4095)),
    "wrong dot": ("directory-dots", False, lambda e: e.dirent(b"/dir", b".", nid=_plus(1))),
    "wrong dot dot": ("directory-dots", False, lambda e: e.dirent(b"/dir", b"..", nid=_plus(1))),
    "entry elsewhere": ("inode", False, lambda e: e.dirent(b"/dir", b"pipe", nid=1 << 60)),
    "folder twice": (
        "directory-twice",
        False,
        lambda e: e.dirent(b"/other", b"inner", nid=e.inode_of(b"/dir").nid),
    ),
    "cycle": ("directory-twice", False, lambda e: e.dirent(b"/other", b"inner", nid=e.inode_of(b"/").nid)),
    "symlink empty": ("symlink", False, lambda e: e.inode(b"/dir/link", size=0)),
    "symlink too long": ("symlink", False, lambda e: e.inode(b"/dir/link", size=4097)),
    "symlink with NUL": (
        "symlink",
        False,
        lambda e: e.replace(b"target-of-the-link", b"target\0of-the-link"),
    ),
    "prefetch": ("prefetch", False, lambda e: e.write(_prefetch_offset(), b"\x01\0\0\0")),
}


def _same_tags(editor: Editor) -> None:
    for index in (0, 1):
        editor.slot(index, tag=b"f" * 64)


def _same_place(editor: Editor) -> None:
    row = _rows_by_blob()[0]
    first = list(Bootstrap(_image().bootstrap).chunk_rows())[row]
    editor.row(row + 1, chunk_index=first.chunk_index, offset=first.offset, size=first.size - 1)


def _prefetch_offset() -> int:
    return Bootstrap(_image().bootstrap).header.extended.prefetch_table_offset


@pytest.mark.parametrize(("rule", "fatal", "edit"), CORPUS.values(), ids=CORPUS)
def test_each_broken_rule_is_found(rule: str, fatal: bool, edit: Edit) -> None:
    raw = edited(_image().bootstrap, edit)
    found = check_bootstrap(raw)
    assert rule in {finding.rule for finding in found}, found
    assert any(finding.fatal for finding in found) == fatal
    assert all(finding.message and finding.where for finding in found)
    if fatal:
        with pytest.raises(FormatInvalid, match=r"bootstrap refused: .*\["):
            Bootstrap(raw)
    else:
        Bootstrap(raw)


def test_a_blob_that_no_file_uses_is_no_finding() -> None:
    """Nydus' builder leaves one where an image replaces all that its parent has of it."""
    image = image_of(tree(file(b"a", b"1"), file(b"b", b"2", blob=1)))
    assert check_bootstrap(edited(image.bootstrap, lambda e: e.inode(b"/b", size=0))) == []


def test_a_path_longer_than_any_reader_follows_is_found() -> None:
    inner = directory(b"d" * 250)
    for _ in range(MAX_PATH // 250 + 1):
        inner = directory(b"d" * 250, inner)
    raw = image_of(tree(inner)).bootstrap
    assert check_bootstrap(raw)[0].rule == "path-length"


def test_every_rule_is_named_by_a_test() -> None:
    here = Path(__file__).parent
    tests = "".join(path.read_text(encoding="utf-8") for path in here.glob("test_*.py"))
    rules = {rule for path in Path(rafs.check.__file__).parent.glob("*.py") for rule in _rules_in(path)}
    assert {"magic", "row-twice", "path-length", "chunk-crc"} <= rules  # or the search finds too little
    assert {rule for rule in rules if f'"{rule}"' not in tests} == set()


def _rules_in(path: Path) -> Iterator[str]:
    """The names of rules: first arguments of `Finding` and of what the checks call instead of it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in {"Finding", "fatal", "expect", "_tell"}:
                yield str(node.args[0].value)


def test_good_images_of_ours_have_no_findings() -> None:
    images = (_image(), image_of(tree()), image_of(tree(file(b"empty"), directory(b"d"))))
    for image in images:
        assert check_bootstrap(image.bootstrap) == []
        metas = [
            parse_blob_meta(blob.record(index), blob.cache_form(), bytes(blob.digests))
            for index, blob in enumerate(image.blobs)
        ]
        assert check_chunks(image.bootstrap, metas) == []
        for index, blob in enumerate(image.blobs):
            assert check_blob_meta(blob.record(index), blob.cache_form(), bytes(blob.digests)) == []


@pytest.mark.parametrize("image", all_images())
def test_images_of_nydus_have_no_findings(image: Vector) -> None:
    assert check_bootstrap(image.bootstrap) == []
    bootstrap = Bootstrap(image.bootstrap)
    if not any(record.unread_feature() for record in bootstrap.blobs):
        assert (
            check_chunks(image.bootstrap, [image.meta(bootstrap, record) for record in bootstrap.blobs]) == []
        )


def test_an_external_blob_is_refused_by_that_name_alone_whatever_else_is_odd_about_its_row() -> None:
    features = BlobFeature.EXTERNAL | BlobFeature.CAP_TAR_TOC
    raw = edited(_image().bootstrap, lambda editor: editor.blob(0, features=features, ci_offset=0))
    assert [(finding.rule, "external blob" in finding.message) for finding in check_bootstrap(raw)] == [
        ("unsupported", True)
    ]
    with pytest.raises(FormatUnsupported, match="external blob is not supported"):
        Bootstrap(raw)


def test_rows_that_contradict_the_chunk_info_are_found() -> None:
    image = _image()
    metas = [
        parse_blob_meta(blob.record(index), blob.cache_form(), bytes(blob.digests))
        for index, blob in enumerate(image.blobs)
    ]
    for change in ({"offset": _plus(4096)}, {"size": _plus(-1)}, {"digest": b"\1" * 32}):
        raw = edited(image.bootstrap, _row(0, **change))
        assert [finding.rule for finding in check_chunks(raw, metas)] == ["row-differs"]
    raw = edited(image.bootstrap, _row(0, chunk_index=1 << 23))
    assert [finding.rule for finding in check_chunks(raw, metas)] == ["row-blob"]
    assert [finding.rule for finding in check_chunks(image.bootstrap, metas[:1])] == ["row-blob"]


def test_findings_are_bounded() -> None:
    image = image_of(tree(*[file(f"{number:04}".encode(), b"x") for number in range(1500)]))
    raw = bytearray(image.bootstrap)
    editor = Editor(image.bootstrap)
    for number in range(1500):
        editor.inode(f"/{number:04}".encode(), mtime_nsec=1 << 31)
    raw[:] = editor.raw
    assert len(check_bootstrap(bytes(raw))) == MAX_FINDINGS


def test_version_5_is_refused_by_name() -> None:
    raw = (0x52414653).to_bytes(4, "little") + bytes(8188)
    assert [finding.rule for finding in check_bootstrap(raw)] == ["unsupported"]
    with pytest.raises(FormatUnsupported, match="RAFS v5"):
        Bootstrap(raw)


@pytest.mark.parametrize("raw", [b"", b"\0" * 100, bytes(4096), b"#!/bin/sh\n" * 1000])
def test_what_is_no_bootstrap_is_refused(raw: bytes) -> None:
    assert [finding.fatal for finding in check_bootstrap(raw)] == [True]
    with pytest.raises(FormatInvalid):
        Bootstrap(raw)


@pytest.mark.parametrize("size", [0x3FF, 0x480, 4096, 5000, 8192, -4096, -1])
def test_a_cut_off_bootstrap_is_refused_or_found(size: int) -> None:
    assert check_bootstrap(_image().bootstrap[:size])


def _read_everything(raw: bytes) -> None:
    bootstrap = Bootstrap(raw)
    for _ in dump_lines(bootstrap):
        pass
    for path, inode in bootstrap.walk():
        if inode.mode >> 12 == 4:
            for name, _, _ in bootstrap.entries(inode):
                bootstrap.lookup(inode, name)
            bootstrap.lookup(inode, path)
    for record in bootstrap.blobs:
        # Rows of chunks that no file uses may be missing: other builders drop them when they merge layers.
        with suppress(RafsError):
            bootstrap.chunk_digests(record.index)


_edits = st.lists(
    st.tuples(
        st.integers(0, 1 << 20), st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=300)
@given(_edits, st.booleans())
def test_changed_bytes_are_read_or_refused_but_never_crash(
    edits: list[tuple[int, int]], header_only: bool
) -> None:
    raw = bytearray(_small().bootstrap)
    for at, value in edits:
        raw[0x400 + at % (0x280 if header_only else len(raw) - 0x400)] = value
    found = check_bootstrap(bytes(raw))
    try:
        _read_everything(bytes(raw))
    except RafsError as error:
        assert found, f"the check found nothing, but reading says: {error}"


@cache
def _small() -> Image:
    """As `_image`, but nearly every byte means something."""
    return image_of(
        tree(
            file(b"one", b"1" * 70_000, xattrs={b"user.a": b"b", b"trusted.c": b""}),
            directory(b"d", symlink(b"l", b"t"), char_device(b"c", 5, 1), hardlink(b"h", b"/one")),
        ),
        prefetch=[b"/one"],
    )


def test_inodes_that_share_a_directory_do_not_make_the_check_quadratic() -> None:
    image = image_of(
        tree(
            directory(b"big", *[file(f"file-{number:05}".encode()) for number in range(5000)]),
            directory(b"all", *[directory(f"d{number:04}".encode()) for number in range(2000)]),
        )
    )
    editor = Editor(image.bootstrap)
    big = editor.inode_of(b"/big")
    for number in range(2000):
        editor.inode(f"/all/d{number:04}".encode(), size=big.size & ~4095, i_u=big.i_u, i_format=1)
    assert "overlap" in {finding.rule for finding in check_bootstrap(bytes(editor.raw))}
    with pytest.raises(FormatInvalid, match="overlap"):
        for _ in Bootstrap(bytes(editor.raw)).walk():
            pass
