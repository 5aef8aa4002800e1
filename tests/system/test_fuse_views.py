"""A FUSE mount as ordinary programs and less ordinary calls see it: sizes, copies, directories while read."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from erofs_fs.pids import await_end
from fuse_fs.mount import LIBRARY
from launch import mounts
from launch.control import ask
from launch.errors import MountBusy, NotMounted
from launch.fuse_mounts.server import start_mount
from launch.images.image_request import ImageRequest
from launch.mount_request import MountRequest
from launch.mounts import MountRecord, State
from launch.umount import clean, unmount
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch.published import publish
from tests.support.command import call
from tests.support.images import image_of
from tests.support.trees import Entry, directory, fifo, file, hardlink, symlink, tree

pytestmark = pytest.mark.system

LARGE = random.Random(4).randbytes(3_000_001)
SIZES = (0, 1, 511, 512, 513, 4095, 4096, 4097, 70_000)
MANY = 50_000


def views_tree() -> Entry:
    """A large file, sizes about a page, links of all kinds, and a directory of many names."""
    return tree(
        file(b"large", LARGE),
        directory(b"sizes", *(file(b"%d" % size, random.Random(size).randbytes(size)) for size in SIZES)),
        directory(b"links", hardlink(b"again", b"/large"), symlink(b"soft", b"../large"), fifo(b"fifo")),
        directory(b"many", *(file(b"name %06d" % number) for number in range(MANY))),
    )


@dataclass
class Mounted:
    """A tree, mounted."""

    mountpoint: Path
    root: Path
    record: MountRecord


def mount(base: Path, source: Entry) -> Mounted:
    mountpoint = base / "mountpoint"
    mountpoint.mkdir()
    reference = parse_reference(publish(image_of(source), f"oci:{base / 'layout'}:v1", base).reference)
    image = ImageRequest(reference, RegistryOptions(), background=False)
    request = MountRequest(image, mountpoint, base / "root")
    return Mounted(mountpoint, base / "root", start_mount(request))


@pytest.fixture(scope="module", params=["own protocol", "libfuse2"])
def mounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LIBRARY, request.param)
        made = mount(tmp_path_factory.mktemp("views"), views_tree())
    try:
        yield made
    finally:
        unmount(made.mountpoint, made.root, lazy=True)


def shown(directory: Path) -> dict[str, tuple[int, ...]]:
    found = {path.name: path.stat() for path in directory.iterdir()}
    return {name: (at.st_ino, at.st_mode, at.st_size, at.st_mtime_ns) for name, at in found.items()}


def blocks(size: int) -> int:
    """Bytes a file of *size* takes where it is stored in whole pages."""
    return -(-size // 4096) * 4096


def test_du_counts_pages_and_a_file_with_two_names_once(mounted: Mounted) -> None:
    place = mounted.mountpoint
    for size in SIZES:
        found = (place / "sizes" / str(size)).stat()
        assert (found.st_size, found.st_blocks * 512, found.st_blksize) == (size, blocks(size), 4096)
    directories = [place, *(place / name for name in ("sizes", "links", "many"))]
    own = sum(os.lstat(path).st_blocks * 512 for path in [*directories, place / "links/soft"])
    content = blocks(len(LARGE)) + sum(map(blocks, SIZES))
    assert int(call("du", "-s", "--block-size=1", place).split()[0]) == own + content
    sizes = sum(os.lstat(path).st_size for path in [*directories, place / "links/soft"])
    apparent = int(call("du", "-s", "--apparent-size", "--block-size=1", place).split()[0])
    # Newer programs leave out what directories say of themselves.
    assert apparent in (sizes + len(LARGE) + sum(SIZES), len(LARGE) + sum(SIZES) + len("../large"))


def test_df_says_full_and_as_large_as_the_image(mounted: Mounted) -> None:
    found = os.statvfs(mounted.mountpoint)
    assert (found.f_bfree, found.f_bavail, found.f_ffree, found.f_namemax) == (0, 0, 0, 255)
    assert found.f_blocks * found.f_frsize >= len(LARGE) + sum(SIZES)
    used = call("df", "--output=pcent,ipcent", mounted.mountpoint).split("\n")[1].split()
    assert used == ["100%", "100%"]


def test_copies_and_archives_equal_the_source(mounted: Mounted, tmp_path: Path) -> None:
    for name in ("large", "sizes", "links"):
        call("cp", "-a", mounted.mountpoint / name, tmp_path)
    call("diff", "-r", "--no-dereference", mounted.mountpoint / "sizes", tmp_path / "sizes")
    assert (tmp_path / "large").read_bytes() == LARGE
    archive = subprocess.run(
        ["tar", "-C", str(mounted.mountpoint), "-c", "large", "sizes"], capture_output=True, check=True
    )
    compared = ["tar", "-C", str(mounted.mountpoint), "-d", "-f", "-"]
    subprocess.run(compared, input=archive.stdout, check=True, capture_output=True)


def test_a_directory_of_50_000_names_is_read_piece_by_piece_and_again(mounted: Mounted) -> None:
    names = {f"name {number:06d}" for number in range(MANY)}
    place = mounted.mountpoint / "many"
    with os.scandir(place) as first, os.scandir(place) as second:
        half = [next(first).name for _ in range(MANY // 2)]
        assert {entry.name for entry in second} == names
        assert {*half, *(entry.name for entry in first)} == names
    assert call("find", place, "-maxdepth", "1", "-type", "f").count("\n") == MANY
    assert call("ls", "-f", place).count("\n") == MANY + 2


def test_ways_to_read_beside_read_give_the_same_bytes(mounted: Mounted, tmp_path: Path) -> None:
    name = mounted.mountpoint / "large"
    with name.open("rb") as opened, (tmp_path / "copy").open("w+b") as copy:
        descriptor = opened.fileno()
        assert os.lseek(descriptor, 0, os.SEEK_HOLE) == len(LARGE)
        assert os.lseek(descriptor, 1000, os.SEEK_DATA) == 1000
        assert os.preadv(descriptor, [bytearray(10), buffer := bytearray(90)], 777) == 100
        assert buffer == LARGE[787:877]
        sent = 0
        while sent < len(LARGE):
            sent += os.sendfile(copy.fileno(), descriptor, sent, len(LARGE) - sent)
        copy.seek(0)
        assert copy.read() == LARGE
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(OSError, match="Read-only") as refused:
            os.open(name, flags)
        assert refused.value.errno == errno.EROFS
    direct = os.open(name, os.O_RDONLY | os.O_DIRECT)
    try:
        page = mmap.mmap(-1, 1 << 16)
        assert os.preadv(direct, [page], 1 << 20) == 1 << 16
        assert page[:] == LARGE[1 << 20 : (1 << 20) + (1 << 16)]
        assert os.preadv(direct, [page], 2_998_272) == len(LARGE) - 2_998_272
    finally:
        os.close(direct)


def test_a_lazy_unmount_serves_a_mapping_and_an_open_directory_until_they_are_closed(tmp_path: Path) -> None:
    made = mount(tmp_path, tree(file(b"f", LARGE), directory(b"d", file(b"a"), file(b"b"))))
    with (made.mountpoint / "f").open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
        folder = os.open(made.mountpoint / "d", os.O_RDONLY | os.O_DIRECTORY)
        assert unmount(made.mountpoint, made.root, lazy=True) is not None
        assert list(made.mountpoint.iterdir()) == []
        assert mounts.state_of(made.record) is State.DETACHED
        wrong: list[int] = []

        def read(part: int) -> None:
            start = part * len(LARGE) // 4
            end = (part + 1) * len(LARGE) // 4
            if mapped[start:end] != LARGE[start:end]:
                wrong.append(part)

        readers = [threading.Thread(target=read, args=(part,)) for part in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
        with os.scandir(folder) as entries:
            assert {entry.name for entry in entries} == {"a", "b"}
        assert wrong == []
        os.close(folder)
        mapped.close()
    assert await_end(made.record.server, 20)
    assert mounts.records(made.root) == []


def test_a_restarted_server_serves_the_same_place_with_the_same_numbers(tmp_path: Path) -> None:
    made = mount(tmp_path, tree(file(b"f", LARGE), file(b"g", b"g", blob=1)))
    before = shown(made.mountpoint)
    assert (made.mountpoint / "f").read_bytes() == LARGE
    unmount(made.mountpoint, made.root)
    (layout,) = (tmp_path / "layout").glob("blobs/sha256")
    for blob in layout.iterdir():
        if blob.stat().st_size > len(LARGE) // 2:
            blob.unlink()
    again = [sys.executable, str(Path(__file__).parents[2] / "nopull.py"), "mount", "--root", str(made.root)]
    call(*again, f"oci:{tmp_path / 'layout'}:v1", made.mountpoint)
    try:
        assert shown(made.mountpoint) == before
        assert (made.mountpoint / "f").read_bytes() == LARGE
    finally:
        unmount(made.mountpoint, made.root)


def test_what_is_mounted_elsewhere_as_well_is_told_and_served_on(tmp_path: Path) -> None:
    made, elsewhere = mount(tmp_path, tree(file(b"f", LARGE))), tmp_path / "elsewhere"
    elsewhere.mkdir()
    call("mount", "--bind", made.mountpoint, elsewhere)
    nopull = [sys.executable, str(Path(__file__).parents[2] / "nopull.py")]
    try:
        said = call(*nopull, "umount", "--root", made.root, made.mountpoint)
        assert f"still mounted on {elsewhere}" in said
        assert (elsewhere / "f").read_bytes() == LARGE
        assert [(known.id, state) for known, state in clean(made.root)] == [(made.record.id, State.DETACHED)]
    finally:
        call("umount", elsewhere)
    assert await_end(made.record.server, 15) and mounts.records(made.root) == []


def test_unmounting_tells_where_a_mount_was_moved_and_what_lies_over_it(tmp_path: Path) -> None:
    made = mount(tmp_path, tree(file(b"f", b"x")))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "--move", made.mountpoint, elsewhere], check=True)
    with pytest.raises(NotMounted, match=f"; what was is mounted on {elsewhere} now"):
        unmount(made.mountpoint, made.root)
    subprocess.run(["mount", "--move", elsewhere, made.mountpoint], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "over", made.mountpoint], check=True)
    with pytest.raises(NotMounted, match=r"on top: over \(tmpfs\) lies over it; unmount that first"):
        unmount(made.mountpoint, made.root)
    subprocess.run(["umount", made.mountpoint], check=True)
    assert unmount(made.mountpoint, made.root) is None


def test_unmounting_names_what_is_mounted_inside(tmp_path: Path) -> None:
    made = mount(tmp_path, tree(directory(b"d")))
    inside = made.mountpoint / "d"
    subprocess.run(["mount", "-t", "tmpfs", "within", inside], check=True)
    try:
        with pytest.raises(MountBusy, match=f"{inside} is mounted in it; unmount that first"):
            unmount(made.mountpoint, made.root)
    finally:
        subprocess.run(["umount", inside], check=True)
    assert unmount(made.mountpoint, made.root) is None


def test_a_mount_namespace_that_shows_a_mount_on_is_named_by_a_process(tmp_path: Path) -> None:
    made = mount(tmp_path, tree(file(b"f", b"x")))
    private = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo there; exec sleep 60"]
    with subprocess.Popen(private, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == b"there\n"
            left = unmount(made.mountpoint, made.root)
        finally:
            other.kill()
    assert f"in the mount namespace of process {other.pid}" in (left or "")


def looked_at(made: Mounted) -> dict[str, int]:
    """What the kernel asked for while everything was looked at, as `find` does, and read, as `cat` does."""
    before = ask(made.record.control)["asked"]
    for path in sorted(made.mountpoint.rglob("*")):
        if path.is_symlink():
            path.readlink()
        elif path.is_file():
            # Not `open`: it asks whether the file is a terminal, an ioctl that no file system can keep away.
            opened = os.open(path, os.O_RDONLY)
            while os.read(opened, 1 << 20):
                pass
            os.close(opened)
        else:
            assert not (path / "gone").exists()
    now = ask(made.record.control)["asked"]
    return {word: now[word] - before.get(word, 0) for word in now if now[word] != before.get(word, 0)}


def test_what_was_looked_at_and_read_is_never_asked_for_again(tmp_path: Path) -> None:
    files = [file(b"f%03d" % number, b"%d" % number) for number in range(100)]
    made = mount(tmp_path, tree(directory(b"d", *files), directory(b"e"), symlink(b"s", b"d")))
    try:
        first = looked_at(made)
        assert (first["read"], first["readlink"]) == (100, 1)
        # Attributes come with the listings; looked up by name is only what is not there.
        assert (first["lookup"], first.get("getattr", 0)) == (2, 0)
        assert looked_at(made) == {}
    finally:
        unmount(made.mountpoint, made.root)
