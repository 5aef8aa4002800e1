"""A localised image is the same tree, and every page of every file leads to the window that holds it."""

from __future__ import annotations

import hashlib
import random
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.blob_writer import BlobWriter, pack_unit
from rafs.bootstrap import Bootstrap
from rafs.bootstrap_writer import write_bootstrap
from rafs.errors import FormatInvalid, ImageTooLarge
from rafs.localise import localise
from rafs.localised import LOCALISED_VERSION, MAX_WINDOWS, pack_front, read_devices
from rafs.tree import Node, chunk_ref
from rafs.window_slots import WindowDevice
from rafs.windows import Window, WindowId, cut_windows, find_window
from tests.rafs.tree_strategies import trees
from tests.support.bootstrap_edits import Editor
from tests.support.erofs_reader import ErofsImage
from tests.support.images import Image, image_of
from tests.support.localised_images import Cut, localised, metas_of
from tests.support.nydus_vectors import Image as Vector
from tests.support.nydus_vectors import all_images
from tests.support.trees import Entry, directory, file, hardlink, symlink, tree

KIB = 1024
RANDOM = random.Random(3)
LONG = RANDOM.randbytes(40 * KIB)

SAMPLE = tree(
    file(b"small", b"small"),
    file(b"empty"),
    file(b"long", LONG),
    file(b"part", LONG[8 * KIB : 20 * KIB]),
    file(b"xattrs", b"x" * 5000, xattrs={b"user.odd": b"12345"}),
    file(b"other blob", LONG[:9000] + b"end", blob=1),
    hardlink(b"again", to=b"/long"),
    symlink(b"short", b"small"),
    symlink(b"whole block", b"t" * 4090),
    directory(b"many", *(file(b"%0100d" % number, b"%d" % number) for number in range(120))),
)


def sample(chunk_size: int = 4 * KIB, batch_size: int = 16 * KIB) -> Image:
    return image_of(SAMPLE, chunk_size=chunk_size, batch_size=batch_size)


def assert_same_tree(bootstrap: Bootstrap, windows: Cut, raw: bytes) -> None:
    """The tree of *raw* is that of *bootstrap*, and its pages are where the windows have them."""
    before, after = ErofsImage(bootstrap.raw), ErofsImage(raw)
    numbers = {device.id: number for number, device in enumerate(read_devices(raw), 1)}
    found = dict(after.walk())
    wanted = dict(before.walk())
    assert found.keys() == wanted.keys() == dict(bootstrap.walk()).keys()
    for path, old in wanted.items():
        new = found[path]
        assert (new.nid, new.fields, new.xattrs) == (old.nid, old.fields, old.xattrs), path
        if new.is_directory or stat.S_ISLNK(new.mode):
            assert after.content(new) == before.content(old), path
        elif new.is_regular:
            expected = []
            for extent in bootstrap.extents(bootstrap.inode(old.nid)):
                window = find_window(windows[extent.blob_index], extent.blob_offset)
                first = (extent.blob_offset - window.start) // 4096
                expected += [(numbers[window.id], first + page) for page in range(-(-extent.size // 4096))]
            assert list(after.pages(new)) == expected, path
        else:
            assert new.i_u == old.i_u, path


@given(trees(), st.sampled_from([None, 1, 2]))
def test_any_tree_keeps_its_names_attributes_and_places(root: Entry, run: int | None) -> None:
    made = localised(image_of(root, chunk_size=4 * KIB, batch_size=8 * KIB), run=run)
    assert_same_tree(made.bootstrap, made.windows, made.raw)


@pytest.mark.parametrize("run", [None, 2])
def test_directories_and_links_of_whole_blocks_move_along(run: int | None) -> None:
    made = localised(sample(), run=run)
    assert_same_tree(made.bootstrap, made.windows, made.raw)
    assert ErofsImage(made.raw).meta_block != made.bootstrap.superblock.meta_block


@pytest.mark.parametrize("vector", all_images())
def test_images_of_the_reference_tools_keep_their_tree(vector: Vector) -> None:
    bootstrap, metas = vector.readable()
    windows = tuple(map(cut_windows, metas))
    assert_same_tree(bootstrap, windows, localise(bootstrap, metas, windows))


def test_there_is_one_device_for_each_distinct_window() -> None:
    # The same bytes in the same chunks, in two blobs: other blob ids, the same windows.
    root = tree(
        file(b"a", LONG), file(b"b", LONG, blob=1), file(b"c", b"c", blob=1), file(b"d", b"d", blob=2)
    )
    image = image_of(root, chunk_size=4 * KIB, batch_size=64 * KIB)
    bootstrap = Bootstrap(image.bootstrap)
    metas = metas_of(image, bootstrap)
    same = WindowId("5" * 64)

    def halves(meta: BlobMeta) -> tuple[Window, ...]:
        chunks = len(LONG) // (4 * KIB)
        if meta.chunk_count <= 1:
            return cut_windows(meta)
        parts = [(0, chunks, 0, len(LONG))]
        if meta.chunk_count > chunks:
            parts.append((chunks, meta.chunk_count - chunks, len(LONG), meta.uncompressed_size - len(LONG)))
        return tuple(
            Window(
                same if not number else WindowId("6" * 64), number, 0, 1, first, count, start, length, 0, 1
            )
            for number, (first, count, start, length) in enumerate(parts)
        )

    windows = tuple(map(halves, metas))
    raw = localise(bootstrap, metas, windows)
    assert_same_tree(bootstrap, windows, raw)
    assert [device.id for device in read_devices(raw)][:2] == [same, "6" * 64]
    assert len(read_devices(raw)) == 3
    files = dict(ErofsImage(raw).walk())
    assert list(ErofsImage(raw).pages(files[b"/a"])) == list(ErofsImage(raw).pages(files[b"/b"]))


def test_no_address_of_the_image_itself_can_fall_into_a_device() -> None:
    made = localised(sample(), run=3)
    image = ErofsImage(made.raw)
    assert (image.compat, image.incompat) == (0, 0xC)
    place = image.blocks
    assert place * 4096 == len(made.raw)
    *windows, own = image.devices
    for (_, blocks, at), device in zip(windows, made.devices, strict=True):
        assert (at, blocks * 4096) == (place, device.length)
        place += blocks
    assert own[1:] == (0, place)  # of the mount itself, without a block


def test_a_file_is_one_extent_exactly_where_one_window_has_it_in_one_piece() -> None:
    made = localised(sample(), run=3)
    image = ErofsImage(made.raw)
    kinds = set()
    for _, inode in image.walk():
        if not inode.is_regular or inode.size <= 4 * KIB:
            continue
        places = list(image.pages(inode))
        device, first = places[0]
        whole = places == [(device, first + page) for page in range(len(places))]
        assert (inode.i_u & 0x1F != 0) == whole
        kinds.add(whole)
    assert kinds == {True, False}


def test_the_tables_of_rafs_are_left_out() -> None:
    image = sample()
    made = localised(image)
    assert not any(made.metas[0].digests[at : at + 32] in made.raw for at in range(0, 320, 32))
    assert len(made.raw) < len(image.bootstrap)


def test_indices_beyond_sixteen_bits_are_understood() -> None:
    writer = BlobWriter(chunk_size=4096)
    chunks = [number.to_bytes(4, "little") for number in range(66_000)]
    for first in range(0, len(chunks), 1000):
        writer.add_unit(pack_unit(chunks[first : first + 1000]))
    _, blob = writer.finish()
    node = Node(stat.S_IFREG | 0o644, size=4, chunks=(chunk_ref(0, 65_999),))
    low = Node(stat.S_IFREG | 0o644, size=4, chunks=(chunk_ref(0, 65_999 & 0xFFFF),))
    root = Node(stat.S_IFDIR | 0o755, children={b"f": node, b"low": low})
    bootstrap = Bootstrap(write_bootstrap(root, [blob], chunk_size=4096))
    (record,) = bootstrap.blobs
    meta = parse_blob_meta(record, blob.cache_form(), bootstrap.chunk_digests(0))
    windows = (cut_windows(meta),)
    assert_same_tree(bootstrap, windows, localise(bootstrap, [meta], windows))


@pytest.mark.parametrize(
    "change",
    [
        {"index_low": 2},
        {"index_high": 1},
        {"block": 3},
        {"device": 2, "index_low": 99},
        {"device": 0},
        {"device": 9},
    ],
)
@pytest.mark.parametrize("path", [b"/small", b"/long", b"/xattrs"])
def test_an_entry_that_contradicts_the_chunk_info_is_refused(change: dict[str, int], path: bytes) -> None:
    image = sample()
    editor = Editor(image.bootstrap)
    editor.chunk_entry(path, 0, **change)
    bootstrap = Bootstrap(bytes(editor.raw))
    metas = metas_of(image, Bootstrap(image.bootstrap))
    nid = editor.inode_of(path).nid
    with pytest.raises(FormatInvalid, match=rf"inode {nid}: has a chunk that is .* no such chunk there"):
        localise(bootstrap, metas, tuple(map(cut_windows, metas)))


def test_no_file_may_lead_to_a_chunk_that_nobody_can_verify() -> None:
    image = sample()
    bootstrap = Bootstrap(image.bootstrap)
    extent = bootstrap.extents(dict(bootstrap.walk())[b"/small"])[0]
    forms = {blob.id: blob.cache_form() for blob in image.blobs}
    metas = []
    for record in bootstrap.blobs:
        holes = bytearray(record.chunk_count)
        if record.index == extent.blob_index:
            holes[extent.chunk_index] = 1
        digests = bootstrap.chunk_digests(record.index)
        metas.append(parse_blob_meta(record, forms[record.id], digests, bytes(holes)))
    with pytest.raises(FormatInvalid, match=f"has a chunk that is chunk {extent.chunk_index} "):
        localise(bootstrap, metas, tuple(map(cut_windows, metas)))


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (b"/long", {"size": 1 << 40}),
        (b"/long", {"i_format": 1}),
        (b"/many", {"i_u": 1 << 20}),
        (b"/many", {"size": 1 << 50}),
        (b"/many", {"i_format": 9}),
        (b"/whole block", {"i_u": 0xFFFF_FFFF}),
        (b"/short", {"i_format": 7}),
    ],
)
def test_what_points_out_of_the_bootstrap_is_refused(path: bytes, change: dict[str, int]) -> None:
    image = sample()
    editor = Editor(image.bootstrap)
    editor.inode(path, **change)
    metas = metas_of(image, Bootstrap(image.bootstrap))
    with pytest.raises(FormatInvalid):
        localise(Bootstrap(bytes(editor.raw)), metas, tuple(map(cut_windows, metas)))


@given(st.data())
def test_hostile_bytes_are_localised_or_refused(data: st.DataObject) -> None:
    image = HOSTILE
    raw = bytearray(image.bootstrap)
    metas = metas_of(image, Bootstrap(image.bootstrap))
    start = Bootstrap(image.bootstrap).header.meta_offset
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(start + 4096, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = localise(Bootstrap(bytes(raw)), metas, tuple(map(cut_windows, metas)))
    except FormatInvalid:
        return
    assert read_devices(made)


HOSTILE = image_of(
    tree(file(b"f", LONG), symlink(b"l", b"t"), directory(b"d", file(b"g", b"g"))), chunk_size=4096
)


def test_chunk_info_of_all_blobs_is_needed() -> None:
    image = sample()
    with pytest.raises(FormatInvalid, match="has 2 blobs, chunk info is given for 0"):
        localise(Bootstrap(image.bootstrap), [], [])


def test_more_windows_than_the_kernel_can_count_are_refused() -> None:
    superblock = Bootstrap(sample().bootstrap).superblock
    device = WindowDevice(WindowId("a" * 64), 4096)
    join, _ = pack_front(superblock, 1, 1, [device] * MAX_WINDOWS)
    assert len(read_devices(join(bytes(4096)))) == MAX_WINDOWS
    with pytest.raises(ImageTooLarge, match="65535 windows"):
        pack_front(superblock, 1, 1, [device] * (MAX_WINDOWS + 1))


def test_a_damaged_image_is_not_taken_for_a_good_one() -> None:
    raw = localised(sample()).raw
    for at in [*range(1024, 1024 + 128), *RANDOM.sample(range(len(raw)), 60)]:
        damaged = bytearray(raw)
        damaged[at] ^= 1
        with pytest.raises(FormatInvalid):
            read_devices(bytes(damaged))
    with pytest.raises(FormatInvalid):
        read_devices(raw[:-4096])
    with pytest.raises(FormatInvalid):
        read_devices(b"short")


def test_other_bytes_need_another_version() -> None:
    """Kept images are found by the version: change the sum and raise the version together."""
    random_bytes = random.Random(1).randbytes(3 << 20)
    root = tree(
        file(b"f", random_bytes), file(b"g", random_bytes[5000:9000]), directory(b"d", symlink(b"l", b"t"))
    )
    made = localised(image_of(root, chunk_size=64 * KIB, batch_size=256 * KIB))
    assert (LOCALISED_VERSION, hashlib.sha256(made.raw).hexdigest()[:16]) == (3, "50fd227256e99918")
