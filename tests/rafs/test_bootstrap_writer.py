"""Bootstraps as written, read back with our reader; the kernel's opinion is in tests/system."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from array import array
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.blob_meta import parse_blob_meta
from rafs.bootstrap import Bootstrap
from rafs.bootstrap_writer import write_bootstrap
from rafs.check import check_blob_meta, check_bootstrap, check_chunks
from rafs.codes import LAYOUT_INLINE
from rafs.digests import chunk_digest
from rafs.finished_blob import FinishedBlob
from rafs.tree import Node, chunk_ref
from rafs.units import decode_unit
from tests.rafs.plain_blobs import CHUNK_SIZE, REGULAR, folder, plain, regular
from tests.rafs.tree_strategies import trees
from tests.support.images import Image, image_of
from tests.support.trees import Entry, directory, expected, file, hardlink, tree


def content(bootstrap: Bootstrap, image: Image, path: bytes) -> bytes:
    """A file's bytes, through its extents and the uncompressed address spaces of the blobs."""
    inode = dict(bootstrap.walk())[path]
    pieces = []
    for extent in bootstrap.extents(inode):
        device = image.devices[bootstrap.blobs[extent.blob_index].id]
        piece = device[extent.blob_offset : extent.blob_offset + extent.size]
        start = extent.chunk_index * 32
        assert bootstrap.chunk_digests(extent.blob_index)[start : start + 32] == chunk_digest(piece)
        pieces.append(piece)
    return b"".join(pieces)


@given(trees())
def test_what_was_planned_is_what_is_read(root: Entry) -> None:
    image = image_of(root, chunk_size=CHUNK_SIZE, batch_size=2 * CHUNK_SIZE)
    bootstrap = Bootstrap(image.bootstrap)
    wanted = expected(root)
    found = dict(bootstrap.walk())
    assert sorted(found) == sorted(wanted)
    assert bootstrap.inode_count == len(wanted)
    for path, shown in wanted.items():
        inode = found[path]
        assert (inode.mode, inode.uid, inode.gid) == (shown.mode, shown.uid, shown.gid)
        assert (inode.mtime, inode.mtime_ns, inode.nlink) == (shown.mtime, shown.mtime_ns, shown.nlink)
        assert inode.rdev == os.makedev(*shown.rdev)
        assert inode.nid == found[shown.inode_of].nid
        assert bootstrap.xattrs(inode) == shown.xattrs
        assert list(bootstrap.xattrs(inode)) == sorted(shown.xattrs)
        if stat.S_ISLNK(inode.mode):
            assert bootstrap.symlink_target(inode) == shown.target
        if stat.S_ISREG(inode.mode):
            assert inode.size == len(shown.content)
            assert content(bootstrap, image, path) == shown.content


@given(trees())
def test_directories_are_sorted_with_the_dots_and_can_be_searched(root: Entry) -> None:
    bootstrap = Bootstrap(image_of(root, chunk_size=CHUNK_SIZE).bootstrap)
    inodes = dict(bootstrap.walk())
    for path, inode in inodes.items():
        if not stat.S_ISDIR(inode.mode):
            continue
        entries = list(bootstrap.entries(inode))
        names = [name for name, _, _ in entries]
        assert names == sorted(names)
        parent = inodes[os.path.dirname(path)]  # noqa: PTH120 - a path inside the image
        assert [(name, nid) for name, nid, _ in entries if name in (b".", b"..")] == [
            (b".", inode.nid),
            (b"..", parent.nid),
        ]
        for name, nid, _ in entries:
            assert bootstrap.lookup(inode, name) == nid


@given(trees())
def test_inline_content_never_leaves_its_block_and_inodes_do_not_overlap(root: Entry) -> None:
    bootstrap = Bootstrap(image_of(root, chunk_size=CHUNK_SIZE).bootstrap)
    inodes = {inode.nid: inode for _, inode in bootstrap.walk()}
    ends = []
    for nid in sorted(inodes):
        inode = inodes[nid]
        start, head = inode.xattr_offset - 64, 64 + inode.xattr_size
        tail = inode.size % 4096
        if not stat.S_ISREG(inode.mode) and tail:
            assert (inode.layout == LAYOUT_INLINE) == (head + tail <= 4096)
        if inode.layout == LAYOUT_INLINE:
            assert start // 4096 == (start + head + tail - 1) // 4096
            head += tail
        if stat.S_ISREG(inode.mode):
            head += -head % 8 + 8 * len(bootstrap.extents(inode))
        ends.append((start, start + head))
    for (_, end), (start, _) in pairwise(ends):
        assert end <= start


@given(trees())
def test_every_chunk_can_be_had_from_the_blob_object(root: Entry) -> None:
    image = image_of(root, chunk_size=CHUNK_SIZE, batch_size=2 * CHUNK_SIZE)
    bootstrap = Bootstrap(image.bootstrap)
    for record, blob in zip(bootstrap.blobs, image.blobs, strict=True):
        assert record.id == blob.id == hashlib.sha256(image.objects[blob.id]).hexdigest()
        meta = parse_blob_meta(record, blob.cache_form(), bootstrap.chunk_digests(record.index))
        device = image.devices[blob.id]
        for index in range(meta.unit_count):
            unit = meta.unit(index)
            stored = image.objects[blob.id][unit.compressed_offset :][: unit.compressed_size]
            decoded = decode_unit(meta, unit, stored)
            at = 0
            for number in range(unit.first_chunk, unit.first_chunk + unit.chunk_count):
                chunk = meta.chunk(number)
                assert decoded[at : at + chunk.size] == device[chunk.offset : chunk.offset + chunk.size]
                at += chunk.size


@given(trees())
def test_check_finds_nothing_wrong(root: Entry) -> None:
    image = image_of(root, chunk_size=CHUNK_SIZE, batch_size=2 * CHUNK_SIZE)
    bootstrap = Bootstrap(image.bootstrap)
    metas = []
    for record, blob in zip(bootstrap.blobs, image.blobs, strict=True):
        digests = bootstrap.chunk_digests(record.index)
        assert check_blob_meta(record, blob.cache_form(), digests) == []
        metas.append(parse_blob_meta(record, blob.cache_form(), digests))
    assert check_bootstrap(image.bootstrap) == []
    assert check_chunks(image.bootstrap, metas) == []


@given(trees(), st.integers(0, 1 << 32).map(Random))
def test_the_order_in_which_names_were_added_does_not_matter(root: Entry, random: Random) -> None:
    def shuffled(node: Node) -> Node:
        names = list(node.children)
        random.shuffle(names)
        node.children = {name: node.children[name] for name in names}
        for child in node.children.values():
            if child.is_directory:
                shuffled(child)
        return node

    image = image_of(root, chunk_size=CHUNK_SIZE)
    again = write_bootstrap(shuffled(image.root), image.packed, chunk_size=CHUNK_SIZE)
    assert again == image.bootstrap


def test_a_fixed_tree_gives_the_same_bytes_for_ever() -> None:
    link = regular(2, chunk_ref(1, 1))
    root = folder(
        empty=regular(0),
        hello=Node(REGULAR, 1000, 1000, -5, 250_000_000, size=1, chunks=(chunk_ref(0, 0),)),
        linked=link,
        marked=Node(REGULAR, xattrs={b"user.b": b"2", b"user.a": b"1"}),
        sub=folder(again=link, null=Node(stat.S_IFCHR | 0o666, rdev=0x103)),
        to=Node(stat.S_IFLNK | 0o777, target=b".."),
    )
    for number in range(300):
        root.children[b"name %d" % number] = Node(stat.S_IFIFO | 0o644)
    raw = write_bootstrap(root, [plain(0), plain(1)], chunk_size=CHUNK_SIZE, prefetch=[link])
    assert len(raw) == 45056
    assert (
        hashlib.sha256(raw).hexdigest() == "e2a492fb46aad618e3a85b584939cbdb6fad6a89f36efcbb6d38595933d41958"
    )


def test_the_superblocks_say_what_readers_insist_on() -> None:
    image = image_of(tree(file(b"a", b"x"), directory(b"d", file(b"b", xattrs={b"user.a": b""}))))
    raw = image.bootstrap
    assert raw[:0x400] == bytes(0x400)
    magic, checksum, compat, bits, slots, root_nid, inos = struct.unpack_from("<IIIBBHQ", raw, 0x400)
    assert (magic, checksum, compat, bits, slots) == (0xE0F5E1E2, 0, 0x4000_0000, 12, 0)
    assert (root_nid, inos) == (128, 4)
    blocks, meta_block, xattr_block = struct.unpack_from("<III", raw, 0x424)
    assert (blocks, meta_block, xattr_block) == (1, 2, 0)
    assert struct.unpack_from("<IHHH", raw, 0x450) == (0xC, 0, 1, 11)
    flags, table, table_size, chunk_size, rows, rows_size = struct.unpack_from("<QQIIQQ", raw, 0x480)
    assert flags == 0x0100_0000 | 0x100 | 0x80 | 0x20 | 0x10 | 0x4
    assert (table, table_size, chunk_size, rows_size) == (0x1000, 256, 64 << 10, 80)
    assert rows % 4096 == 0
    assert len(raw) == rows + 4096


def test_the_xattr_flag_is_set_only_if_there_are_xattrs() -> None:
    assert not Bootstrap(image_of(tree(file(b"a", b"x"))).bootstrap).flags & 0x20


def test_device_slots_follow_each_other_in_the_flat_form() -> None:
    root = tree(file(b"a", b"x" * 600_000), file(b"b", b"y", blob=1))
    image = image_of(root)
    slots = [struct.unpack_from("<64sII", image.bootstrap, 0x580 + 128 * index) for index in range(2)]
    first, second = image.blobs
    flat = -(-len(image.bootstrap) // 0x80000) * 128
    # 600 000 bytes of the same are one chunk of 64 KiB and a shorter one: less than 512 KiB.
    assert slots == [
        (first.id.encode(), first.uncompressed_size // 4096, flat),
        (second.id.encode(), 1, flat + 128),
    ]


def test_names_that_sort_before_the_dots_come_before_them() -> None:
    bootstrap = Bootstrap(image_of(tree(file(b"!x"), file(b"..."), file(b"-"), file(b".a"))).bootstrap)
    root = bootstrap.inode(bootstrap.root_nid)
    assert [name for name, _, _ in bootstrap.entries(root)] == [b"!x", b"-", b".", b"..", b"...", b".a"]


def test_children_of_a_directory_lie_together_in_the_order_of_their_names() -> None:
    root = tree(
        directory(b"a", file(b"x"), directory(b"y", file(b"deep"))),
        directory(b"b", file(b"z")),
        file(b"c"),
    )
    found = sorted(Bootstrap(image_of(root).bootstrap).walk(), key=lambda pair: pair[1].nid)
    assert [path for path, _ in found] == [b"/", b"/a", b"/b", b"/c", b"/a/x", b"/a/y", b"/b/z", b"/a/y/deep"]


def test_the_prefetch_table_keeps_its_order() -> None:
    root = tree(file(b"a", b"x"), file(b"b", b"y"), directory(b"d"), hardlink(b"l", to=b"/b"))
    bootstrap = Bootstrap(image_of(root, prefetch=[b"/d", b"/l", b"/a"]).bootstrap)
    inodes = dict(bootstrap.walk())
    assert list(bootstrap.prefetch_nids()) == [inodes[path].nid for path in (b"/d", b"/b", b"/a")]


def test_prefetching_everything_is_the_root_alone() -> None:
    bootstrap = Bootstrap(image_of(tree(file(b"a", b"x")), prefetch=[b"/"]).bootstrap)
    assert bootstrap.prefetch_nids() == (bootstrap.root_nid,)


def test_unused_blobs_are_dropped_and_the_others_keep_their_order() -> None:
    root = folder(z=regular(1, chunk_ref(4, 0)), a=regular(2, chunk_ref(2, 1)), m=regular(1, chunk_ref(5, 0)))
    blobs = [plain(number) for number in range(7)]
    bootstrap = Bootstrap(write_bootstrap(root, blobs, chunk_size=CHUNK_SIZE))
    assert [blob.id for blob in bootstrap.blobs] == [blobs[key].id for key in (2, 4, 5)]
    used = {path: bootstrap.extents(inode)[0].blob_index for path, inode in bootstrap.walk() if path != b"/"}
    assert used == {b"/a": 0, b"/z": 1, b"/m": 2}


def test_a_blob_that_was_given_twice_is_one_blob() -> None:
    root = folder(a=regular(1, chunk_ref(0, 0)), b=regular(2, chunk_ref(1, 1)))
    bootstrap = Bootstrap(write_bootstrap(root, [plain(7), plain(7)], chunk_size=CHUNK_SIZE))
    assert len(bootstrap.blobs) == 1
    assert {bootstrap.extents(inode)[0].chunk_index for path, inode in bootstrap.walk() if path != b"/"} == {
        0,
        1,
    }


def test_chunks_that_no_file_uses_are_in_the_chunk_table() -> None:
    blob = plain(chunks=9)
    bootstrap = Bootstrap(
        write_bootstrap(folder(a=regular(3, chunk_ref(0, 2))), [blob], chunk_size=CHUNK_SIZE)
    )
    assert bootstrap.chunk_digests(0) == blob.digests


def test_the_chunk_table_is_sorted_by_digest_and_blob() -> None:
    same = replace(plain(1), digests=plain(0).digests)
    root = folder(a=regular(3, chunk_ref(0, 2)), b=regular(4, chunk_ref(1, 3)))
    raw = write_bootstrap(root, [plain(0), same], chunk_size=CHUNK_SIZE)
    offset, size = struct.unpack_from("<QQ", raw, 0x480 + 24)
    rows = [struct.unpack("<32sIIIIQQQII", raw[at : at + 80]) for at in range(offset, offset + size, 80)]
    assert len(rows) == 8
    assert rows == sorted(rows, key=lambda row: (row[0], row[1]))
    for digest, blob_index, flags, compressed_size, length, compressed_offset, at, _, index, crc in rows:
        assert digest == plain(0).digest(index)
        assert (flags, compressed_size, compressed_offset, crc) == (0, 0, 0, 0)
        assert (length, at) == (index + 1, index * 4096)
        assert blob_index < 2


def chunk_format(root: Node, blobs: list[FinishedBlob]) -> int:
    bootstrap = Bootstrap(write_bootstrap(root, blobs, chunk_size=CHUNK_SIZE))
    return dict(bootstrap.walk())[b"/f"].i_u


@pytest.mark.parametrize(
    ("refs", "size", "extent_bits"),
    [
        ([(0, 1), (0, 2), (0, 3)], 3 * CHUNK_SIZE, 2),
        ([(0, 1), (0, 2)], 2 * CHUNK_SIZE, 1),
        ([(0, 0), (0, 2)], 2 * CHUNK_SIZE, 0),
        ([(0, 2), (0, 1)], 2 * CHUNK_SIZE, 0),
        ([(0, 1), (1, 2)], 2 * CHUNK_SIZE, 0),
        ([(0, 1), (0, 1)], 2 * CHUNK_SIZE, 0),
        ([(0, 1)], CHUNK_SIZE, 0),
        ([], 0, 0),
    ],
)
def test_neighbouring_chunks_of_one_blob_become_one_extent(
    refs: list[tuple[int, int]], size: int, extent_bits: int
) -> None:
    blobs = [replace(plain(number), sizes=array("I", [CHUNK_SIZE] * 4)) for number in range(2)]
    node = regular(size, *(chunk_ref(*ref) for ref in refs))
    assert chunk_format(folder(f=node), blobs) == 0x20 | extent_bits


def test_long_files_may_give_their_chunks_as_an_array() -> None:
    blob = replace(plain(), sizes=array("I", [CHUNK_SIZE] * 4))
    node = Node(REGULAR, size=3 * CHUNK_SIZE, chunks=array("Q", [chunk_ref(0, index) for index in range(3)]))
    assert chunk_format(folder(f=node), [blob]) == 0x22
