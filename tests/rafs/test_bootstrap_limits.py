"""What the format cannot hold is refused by name, and what just fits is written."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest

from rafs.bootstrap import Bootstrap
from rafs.bootstrap_writer import write_bootstrap
from rafs.errors import ImageTooLarge
from rafs.tree import Node, PlanInvalid, chunk_ref
from tests.rafs.plain_blobs import CHUNK_SIZE, DIRECTORY, REGULAR, folder, plain, regular
from tests.support.images import image_of
from tests.support.trees import char_device, file, symlink, tree


def test_254_blobs_fit_and_255_do_not() -> None:
    def used(count: int) -> Node:
        return folder(**{f"f{key}": regular(1, chunk_ref(key, 0)) for key in range(count)})

    blobs = [plain(number) for number in range(300)]
    assert len(Bootstrap(write_bootstrap(used(254), blobs, chunk_size=CHUNK_SIZE)).blobs) == 254
    with pytest.raises(ImageTooLarge, match="255 blobs"):
        write_bootstrap(used(255), blobs, chunk_size=CHUNK_SIZE)


def test_blobs_beyond_16_tib_together_are_refused() -> None:
    blobs = [replace(plain(number), uncompressed_size=1 << 43) for number in range(2)]
    root = folder(a=regular(1, chunk_ref(0, 0)), b=regular(1, chunk_ref(1, 0)))
    with pytest.raises(ImageTooLarge, match="32 bits"):
        write_bootstrap(root, blobs, chunk_size=CHUNK_SIZE)


def with_child(name: bytes, node: Node) -> Node:
    return Node(DIRECTORY, children={name: node})


SOME = Node(DIRECTORY)
LOOP = Node(DIRECTORY)
LOOP.children[b"loop"] = LOOP


@pytest.mark.parametrize(
    ("root", "found"),
    [
        (regular(0), "root has mode"),
        (with_child(b"", regular(0)), "0 bytes"),
        (with_child(b"n" * 256, regular(0)), "256 bytes"),
        (with_child(b"a/b", regular(0)), "without slash"),
        (with_child(b"a\0b", regular(0)), "without slash and NUL"),
        (with_child(b".", regular(0)), "called b'.'"),
        (with_child(b"..", Node(DIRECTORY)), "called b'..'"),
        (folder(a=SOME, b=SOME), "second name"),
        (LOOP, "second name"),
        (folder(f=Node(0o644)), "b'/f'.*no file type"),
        (folder(f=Node(REGULAR | 1 << 16)), "no file type"),
        (folder(f=Node(REGULAR, uid=1 << 32)), "uid 4294967296"),
        (folder(f=Node(REGULAR, gid=-1)), "gid -1"),
        (folder(f=Node(stat.S_IFCHR, rdev=1 << 32)), "device number"),
        (folder(f=Node(REGULAR, mtime=1 << 63)), "mtime"),
        (folder(f=Node(REGULAR, mtime_ns=10**9)), "mtime"),
        (folder(d=folder(f=Node(stat.S_IFLNK | 0o777))), "b'/d/f'.*target of 0 bytes"),
        (folder(f=Node(stat.S_IFLNK | 0o777, target=b"t" * 4096)), "target of 4096 bytes"),
        (folder(f=Node(stat.S_IFLNK | 0o777, target=b"a\0")), "without NUL"),
        (folder(f=Node(REGULAR, children={b"a": regular(0)})), "no directory"),
        (folder(f=Node(DIRECTORY, chunks=(0,))), "no regular file"),
        (folder(f=Node(REGULAR, xattrs={b"overlay.x": b""})), "b'/f'.*xattr b'overlay.x'"),
        (folder(f=regular(1)), "0 chunks.* 1 byte$"),
        (folder(f=regular(0, chunk_ref(0, 0))), "1 chunk .* 0 bytes"),
        (folder(f=Node(REGULAR, size=-1)), "-1 bytes"),
        (folder(f=regular(1, chunk_ref(0, 1))), "b'/f'.*chunk 1 .* has 2 bytes, byte 0 of the file wants 1"),
        (folder(f=regular(CHUNK_SIZE + 1, chunk_ref(0, 0), chunk_ref(0, 0))), "has 1 byte,.*wants 4096"),
        (folder(f=regular(1, chunk_ref(0, 4))), "has . chunks, byte 0 wants 4"),
        (folder(f=regular(1, chunk_ref(1, 0))), "blob 1, but there are 1"),
    ],
)  # fmt: skip
def test_a_tree_that_the_format_cannot_hold_is_refused_by_name(root: Node, found: str) -> None:
    with pytest.raises(PlanInvalid, match=found):
        write_bootstrap(root, [plain()], chunk_size=CHUNK_SIZE)


@pytest.mark.parametrize("chunk_size", [0, 2048, 5000, 1 << 25])
def test_a_chunk_size_that_is_no_power_of_two_in_range_is_refused(chunk_size: int) -> None:
    with pytest.raises(PlanInvalid, match="power of two"):
        write_bootstrap(folder(), [], chunk_size=chunk_size)


def test_a_blob_cut_at_another_size_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="cut at 8192 bytes, the image at 4096"):
        write_bootstrap(
            folder(f=regular(1, chunk_ref(0, 0))), [plain(chunk_size=8192)], chunk_size=CHUNK_SIZE
        )


def test_a_node_to_prefetch_must_be_in_the_tree() -> None:
    with pytest.raises(PlanInvalid, match="not in the tree"):
        write_bootstrap(folder(), [], chunk_size=CHUNK_SIZE, prefetch=[regular(0)])


def test_limits_that_just_fit_are_written() -> None:
    root = tree(
        file(b"n" * 255, uid=(1 << 32) - 1, mtime=-(1 << 63), mtime_ns=999_999_999),
        symlink(b"l", b"t" * 4095),
        char_device(b"c", 4095, (1 << 20) - 1),
        file(b"x", xattrs={b"user." + b"n" * 250: b"v" * 65535, b"security.a": b"v" * 65535}),
    )
    bootstrap = Bootstrap(image_of(root).bootstrap)
    inodes = dict(bootstrap.walk())
    assert inodes[b"/" + b"n" * 255].mtime == -(1 << 63)
    assert bootstrap.symlink_target(inodes[b"/l"]) == b"t" * 4095
    assert bootstrap.xattrs(inodes[b"/x"])[b"security.a"] == b"v" * 65535
