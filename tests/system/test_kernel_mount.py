"""The Linux kernel and fsck.erofs, which know nothing of our code, accept what the writer makes and show
exactly the tree that was planned: each attribute of each name, and every byte."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import random
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings

from rafs.bootstrap import Bootstrap
from tests.rafs.tree_strategies import trees
from tests.support.images import Image, image_of
from tests.support.trees import (
    Entry,
    block_device,
    char_device,
    directory,
    expected,
    fifo,
    file,
    hardlink,
    socket,
    symlink,
    tree,
)

pytestmark = pytest.mark.system

KIB = 1024
MS_RDONLY = 1
MNT_DETACH = 2

RANDOM = random.Random(11)
LONG = RANDOM.randbytes(700 * KIB)
SHARED = RANDOM.randbytes(200 * KIB)

# Version 2, then (tag, permissions, id): owner rwx, user 1000 r-x, group r-x, mask r-x, other none.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in (
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 5, 1000),
        (0x04, 5, 0xFFFFFFFF),
        (0x10, 5, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)
# Revision 2, effective: cap_net_raw.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)

EVERYTHING = tree(
    file(b"empty", mode=0o4755, uid=1000, gid=70_000),
    file(b"small", b"small", mode=0o2640, uid=0xFFFF_FFFE, gid=4_000_000_000, mtime=-5, mtime_ns=250_000_000),
    file(b"block", RANDOM.randbytes(4096), mtime=1_700_000_000, mtime_ns=999_999_999),
    file(b"one extent", LONG, mtime=5_000_000_000),
    file(b"one chunk exactly", SHARED[: 64 * KIB]),
    # The first chunk is stored with the file above, so the chunks are in two places.
    file(b"many chunks", SHARED),
    file(b"three times the same", SHARED[: 64 * KIB] * 3 + b"."),
    file(b"zeros", bytes(300 * KIB)),
    file(b"in the third blob", RANDOM.randbytes(130 * KIB), blob=2),
    directory(
        b"second blob",
        file(b"one", RANDOM.randbytes(5000), blob=1),
        file(b"two", RANDOM.randbytes(65 * KIB), blob=1),
        mode=0o1777,
    ),
    directory(b"empty directory", mode=0o700, uid=5, gid=6, mtime=-(10**10), mtime_ns=1),
    directory(b"many", *(file(b"entry %04d" % number, b"%d" % number) for number in range(700))),
    directory(b"long names", *(file(bytes([letter]) * 255) for letter in range(0x61, 0x7B))),
    directory(
        b"strange \xff\xfe names",
        file(b"!before the dots"),
        file(b"-"),
        file(b".hidden"),
        file(b"..."),
        file(b"\x01\n%\\\t"),
        file("é".encode()),
        file(b"\xc3\x28"),
    ),
    symlink(b"link", b"small", uid=7, gid=8, mtime=3),
    symlink(b"dangling", b"/nowhere/\xff"),
    symlink(b"longest inline link", b"i" * 4032),
    symlink(b"shortest link in a block", b"b" * 4033),
    symlink(b"longest link", b"l" * 4095),
    hardlink(b"hard link", to=b"/small"),
    hardlink(b"another hard link", to=b"/small"),
    hardlink(b"hard link to a link", to=b"/link"),
    fifo(b"fifo", mode=0o600),
    socket(b"socket"),
    char_device(b"null", 1, 3, mode=0o666),
    char_device(b"large numbers", 300, 70_000),
    block_device(b"disk", 8, 1),
    file(
        b"xattrs",
        b"x",
        xattrs={b"user.empty": b"", b"user.k": b"v", b"trusted.t": b"\0\xff", b"user.a": b"1"},
    ),
    file(b"capability", b"x", xattrs={b"security.capability": CAPABILITY}),
    file(b"large xattr", b"x", xattrs={b"user.large": RANDOM.randbytes(3500), b"user.other": b"o"}),
    file(
        b"xattrs of several blocks", b"x", xattrs={b"user.%d" % i: RANDOM.randbytes(3000) for i in range(4)}
    ),
    file(b"longest xattr name", b"x", xattrs={b"user." + b"n" * 250: b"v"}),
    file(b"acl", b"x", mode=0o750, xattrs={b"system.posix_acl_access": ACL}),
    directory(
        b"acl directory",
        file(b"child"),
        mode=0o750,
        xattrs={b"system.posix_acl_access": ACL, b"system.posix_acl_default": ACL},
    ),
    directory(b"full with xattrs", file(b"n" * 200), file(b"m" * 200), xattrs={b"user.x": b"v" * 3400}),
    directory(b"deep", directory(b"deeper", directory(b"deepest", file(b"leaf", b"leaf")))),
    symlink(b"link with xattrs", b"target", xattrs={b"trusted.t": b"t"}),
    mode=0o751,
    uid=3,
    gid=4,
    mtime=77,
    mtime_ns=88,
    xattrs={b"user.root": b"yes"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory whose files the kernel can take for disks; tmpfs files cannot be."""
    path = tmp_path_factory.mktemp("erofs")
    kind = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    if kind.stdout.strip() == "tmpfs":
        pytest.skip(f"{path} is on tmpfs, which EROFS cannot use; choose another place with TMPDIR")
    yield path
    shutil.rmtree(path)


def save(image: Image, folder: Path) -> tuple[Path, list[Path]]:
    bootstrap = folder / "image.boot"
    bootstrap.write_bytes(image.bootstrap)
    devices = []
    for blob in image.blobs:
        device = folder / f"{blob.id}.blob.data"
        device.write_bytes(image.devices[blob.id])
        os.truncate(device, blob.uncompressed_size)
        devices.append(device)
    return bootstrap, devices


@contextmanager
def mounted(bootstrap: Path, devices: Sequence[Path], at: Path) -> Iterator[bytes]:
    """A kernel mount at *at*. Not by mount(8): that makes a loop device, and then files as devices fail."""
    libc = ctypes.CDLL(None, use_errno=True)
    at.mkdir(exist_ok=True)
    options = ",".join(f"device={device}" for device in devices)
    if libc.mount(bytes(bootstrap), bytes(at), b"erofs", MS_RDONLY, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount erofs: {os.strerror(ctypes.get_errno())}")
    try:
        yield bytes(at)
    finally:
        if libc.umount2(bytes(at), 0) and libc.umount2(bytes(at), MNT_DETACH):
            raise OSError(ctypes.get_errno(), "umount")


def names_below(top: bytes) -> Iterator[bytes]:
    def refuse(error: OSError) -> None:
        raise error

    yield b"/"
    for place, folders, files in os.walk(top, onerror=refuse):
        for name in folders + files:
            yield (place + b"/" + name)[len(top) :]


def assert_shows(top: bytes, root: Entry) -> None:
    wanted = expected(root)
    assert sorted(names_below(top)) == sorted(wanted)
    for path, shown in wanted.items():
        full = top + path
        found = os.lstat(full)
        nanoseconds = shown.mtime * 10**9 + shown.mtime_ns
        assert (oct(found.st_mode), found.st_uid, found.st_gid) == (oct(shown.mode), shown.uid, shown.gid), (
            path
        )
        assert (found.st_mtime_ns, found.st_nlink) == (nanoseconds, shown.nlink), path
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == shown.rdev, path
        assert found.st_ino == os.lstat(top + shown.inode_of).st_ino, path
        listed = os.listxattr(full, follow_symlinks=False)
        assert {
            os.fsencode(name): os.getxattr(full, name, follow_symlinks=False) for name in listed
        } == shown.xattrs, path
        if stat.S_ISLNK(shown.mode):
            target = os.readlink(full)  # noqa: PTH115 - Path would tidy the target up
            assert (target, found.st_size) == (shown.target, len(shown.target)), path
        if stat.S_ISREG(shown.mode):
            assert found.st_size == len(shown.content), path
            assert Path(os.fsdecode(full)).read_bytes() == shown.content, path


def fsck(bootstrap: Path, devices: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    program = shutil.which("fsck.erofs")
    if program is None:
        pytest.skip("fsck.erofs not found; install the package erofs-utils")
    names = [f"--device={device}" for device in devices]
    return subprocess.run(
        [program, "--extract", *names, bootstrap], capture_output=True, text=True, check=False
    )


def test_the_kernel_shows_every_attribute_and_byte_of_the_planned_tree(folder: Path) -> None:
    image = image_of(EVERYTHING, prefetch=[b"/small", b"/deep"])
    assert len(image.blobs) == 3
    bootstrap, devices = save(image, folder)
    with mounted(bootstrap, devices, folder / "mnt") as top:
        assert_shows(top, EVERYTHING)


def mountable(entry: Entry) -> Entry:
    """Without the xattrs that the kernel interprets, or does not show on files of this type."""
    ordinary = stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode)
    return dataclasses.replace(
        entry,
        xattrs={
            name: value
            for name, value in entry.xattrs.items()
            if name.startswith(b"trusted.") or (name.startswith(b"user.") and ordinary)
        },
        children=tuple(map(mountable, entry.children)),
    )


@settings(max_examples=25)
@given(trees().map(mountable))
def test_the_kernel_shows_any_tree(folder: Path, root: Entry) -> None:
    bootstrap, devices = save(image_of(root, chunk_size=4 * KIB, batch_size=8 * KIB), folder)
    try:
        with mounted(bootstrap, devices, folder / "mnt") as top:
            assert_shows(top, root)
    finally:
        for device in devices:
            device.unlink()


def test_the_test_tree_has_files_of_one_extent_and_of_many(folder: Path) -> None:
    bootstrap = Bootstrap(image_of(EVERYTHING).bootstrap)
    formats = {path: inode.i_u for path, inode in bootstrap.walk() if stat.S_ISREG(inode.mode)}
    assert formats[b"/one extent"] == 0x20 | 8  # 1 MiB
    assert formats[b"/zeros"] == formats[b"/small"] == 0x20 | 4  # 64 KiB


def test_fsck_finds_nothing_wrong(folder: Path) -> None:
    bootstrap, devices = save(image_of(EVERYTHING), folder)
    result = fsck(bootstrap, devices)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("chunk_size", [4 * KIB, 256 * KIB, 1024 * KIB])
def test_the_kernel_reads_files_cut_at_other_sizes(folder: Path, chunk_size: int) -> None:
    root = tree(
        file(b"long", LONG),
        file(b"shares a part", LONG[:5000] + LONG[: 600 * KIB]),
        file(b"same", LONG, blob=1),
    )
    bootstrap, devices = save(image_of(root, chunk_size=chunk_size, batch_size=1024 * KIB), folder)
    with mounted(bootstrap, devices, folder / "mnt") as top:
        assert_shows(top, root)


@pytest.mark.parametrize(
    "root",
    [tree(), tree(symlink(b"l", b"t"), file(b"e"), directory(b"d"))],
    ids=["nothing at all", "no file with bytes"],
)
def test_the_kernel_mounts_an_image_without_blobs(folder: Path, root: Entry) -> None:
    bootstrap, devices = save(image_of(root), folder)
    assert devices == []
    with mounted(bootstrap, devices, folder / "mnt") as top:
        assert_shows(top, root)


def test_the_kernel_mounts_an_image_with_as_many_blobs_as_can_be(folder: Path) -> None:
    root = tree(*(file(b"%03d" % blob, b"%d" % blob * 2000, blob=blob) for blob in range(254)))
    image = image_of(root)
    assert len(image.blobs) == 254
    bootstrap, devices = save(image, folder)
    # 254 options of full paths are more than mount(2) takes: one page.
    short = [folder / f"{number:x}" for number in range(254)]
    for name, device in zip(short, devices, strict=True):
        device.rename(name)
    before = Path.cwd()
    os.chdir(folder)
    try:
        with mounted(bootstrap, [Path(name.name) for name in short], folder / "mnt") as top:
            assert_shows(top, root)
    finally:
        os.chdir(before)


def test_a_difference_between_plan_and_mount_would_be_seen(folder: Path) -> None:
    bootstrap, devices = save(image_of(tree(file(b"a", b"right"))), folder)
    changes: list[Callable[[], Entry]] = [
        lambda: tree(file(b"a", b"wrong")),
        lambda: tree(file(b"a", b"right", mtime_ns=1)),
        lambda: tree(file(b"a", b"right"), file(b"b")),
    ]
    with mounted(bootstrap, devices, folder / "mnt") as top:
        for change in changes:
            with pytest.raises(AssertionError):
                assert_shows(top, change())
