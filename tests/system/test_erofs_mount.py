"""The kernel mount shows exactly the source's tree; what is absent is an error until it is there."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings

from chunk_store import Attachment, ChunkStore
from chunk_store.window_file import WindowDirectory, is_held
from erofs_fs.errors import ErofsForbidden, ErofsMissing, MountFailed
from erofs_fs.mount import detached, mount
from erofs_fs.mount_table import KERNEL_TYPE, mount_table
from erofs_fs.probe import probe
from launch.mountpoint import detach, mount_at
from rafs.localise import localise
from rafs.window_slots import WindowDevice
from rafs.windows import cut_windows
from tests.rafs.tree_strategies import trees
from tests.support.command import able
from tests.support.images import Image, image_of
from tests.support.localised_images import Localised, localised, window_contents
from tests.support.nydus_vectors import Image as Vector
from tests.support.nydus_vectors import all_images, path_of, sha256
from tests.support.trees import Entry, file, tree
from tests.system.test_kernel_mount import EVERYTHING, assert_shows, mountable, names_below

pytestmark = pytest.mark.system

KIB = 1024
MIB = 1 << 20
PAGE = mmap.PAGESIZE


class Objects:
    """A remote: blob objects in memory, by id."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
        yield self._objects[blob_id][offset : offset + size]

    def distrust(self, blob_id: str, offset: int, size: int) -> None:
        """There is no other place."""


@dataclass
class Place:
    """A store, an image over it and a mountpoint; all mounts below are taken away at the end."""

    base: Path

    def __post_init__(self) -> None:
        self.windows = WindowDirectory(self.base)
        self.mountpoint = self.base / "mountpoint"
        self.mountpoint.mkdir()
        self.image = self.base / "image.erofs"
        # The first opening under a boot drops what earlier boots left, empty files too: before any mount.
        ChunkStore(self.base).close()

    def keep(self, made: Localised, contents: dict[str, bytes] | None = None) -> None:
        """Put the image there and a file for each window: with *contents*, or empty."""
        self.image.write_bytes(made.raw)
        self.windows.reserve(device.id for device in made.devices)
        for window_id, content in (contents or {}).items():
            self.window(window_id).write_bytes(content)

    def window(self, window_id: str) -> Path:
        return self.windows.path / window_id[:2] / window_id

    def mount(self, devices: Sequence[WindowDevice], *, image: Path | None = None) -> None:
        """Mount the image, or *image*, over *devices*; each mount gets a file of its own to hold."""
        hold = Path(tempfile.mkstemp(prefix="hold-", dir=self.base)[1])
        names = [device.id for device in devices]
        mount(image or self.image, self.windows.path, names, hold, self.mountpoint)

    @contextmanager
    def mounted(self, made: Localised) -> Iterator[Path]:
        self.mount(made.devices)
        try:
            yield self.mountpoint
        finally:
            detach(self.mountpoint, lazy=True)

    def clear(self) -> None:
        for entry in reversed(mount_table()):
            if entry.mountpoint.is_relative_to(self.base):
                detach(entry.mountpoint, lazy=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(able(tmp_path))
    try:
        yield made
    finally:
        made.clear()


def complete(place: Place, image: Image, *, run: int | None = None) -> Localised:
    made = localised(image, run=run)
    place.keep(made, window_contents(made, image.devices))
    return made


@pytest.mark.parametrize("run", [None, 2])
@pytest.mark.parametrize("chunk_size", [4 * KIB, 64 * KIB, 1024 * KIB])
def test_the_mount_shows_every_attribute_and_byte_of_the_source(
    place: Place, chunk_size: int, run: int | None
) -> None:
    image = image_of(EVERYTHING, chunk_size=chunk_size, batch_size=4 * chunk_size)
    made = complete(place, image, run=run)
    assert len(made.devices) > (20 if run and chunk_size < MIB else 1)
    with place.mounted(made) as top:
        assert_shows(bytes(top), EVERYTHING)


@settings(max_examples=25)
@given(trees().map(mountable))
def test_the_mount_shows_any_tree(tmp_path_factory: pytest.TempPathFactory, root: Entry) -> None:
    place = Place(able(tmp_path_factory.mktemp("tree")))
    try:
        made = complete(place, image_of(root, chunk_size=4 * KIB, batch_size=8 * KIB), run=2)
        with place.mounted(made) as top:
            assert_shows(bytes(top), root)
    finally:
        place.clear()
        shutil.rmtree(place.base)


def test_fsck_finds_nothing_wrong(place: Place) -> None:
    program = shutil.which("fsck.erofs")
    if program is None:
        pytest.skip("fsck.erofs not found; install the package erofs-utils")
    made = complete(place, image_of(EVERYTHING), run=8)
    assert 50 < len(made.devices) < 256  # its limit
    hold = place.base / "hold"
    hold.touch()
    names = [f"--device={place.window(device.id)}" for device in made.devices] + [f"--device={hold}"]
    done = subprocess.run(
        [program, "--extract", *names, place.image], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("vector", all_images())
def test_images_of_the_reference_tools_show_what_they_were_made_of(place: Place, vector: Vector) -> None:
    bootstrap, metas = vector.readable()
    windows = tuple(map(cut_windows, metas))
    made = Localised(bootstrap, metas, windows, localise(bootstrap, metas, windows))
    place.keep(made)
    objects = {record.id: vector.blob_object(record) for record in bootstrap.blobs}
    with ChunkStore(place.base) as store, place.mounted(made) as top:
        assert store.attach(metas, Objects(objects)).wait_complete(30)
        assert sorted(names_below(bytes(top))) == sorted(path_of(row) for row in vector.files)
        for row in vector.files:
            name = bytes(top) + path_of(row)
            found = os.lstat(name)
            inode = bootstrap.inode(row["nid"])
            assert (found.st_ino, found.st_mode) == (row["nid"], inode.mode), row["path"]
            assert (found.st_uid, found.st_gid, found.st_nlink) == (row["uid"], row["gid"], row["nlink"])
            assert found.st_mtime_ns == row["mtime"][0] * 10**9 + row["mtime"][1], row["path"]
            listed = os.listxattr(name, follow_symlinks=False)
            shown = {os.fsencode(key): os.getxattr(name, key, follow_symlinks=False) for key in listed}
            assert shown == bootstrap.xattrs(inode), row["path"]
            if row["type"] == "file":
                assert sha256(Path(os.fsdecode(name)).read_bytes()) == row["sha256"], row["path"]
            elif row["type"] == "symlink":
                assert os.readlink(name) == bootstrap.symlink_target(inode)  # noqa: PTH115 - as stored
            elif row["type"] in ("chr", "blk"):
                assert [os.major(found.st_rdev), os.minor(found.st_rdev)] == row["rdev"]


PROGRAM = b"#!/bin/sh\necho started\n" + b"#" * 5000
BIG = random.Random(1).randbytes(5 * MIB + 1000)
LAZY = tree(
    file(b"big", BIG), file(b"program", PROGRAM, mode=0o755), file(b"empty"), file(b"mapped", BIG[: 3 * MIB])
)


def lazy(place: Place) -> tuple[Image, Localised]:
    """LAZY with nothing in the store yet."""
    image = image_of(LAZY, chunk_size=256 * KIB, batch_size=MIB)
    made = localised(image)
    assert len(made.devices) > 4
    place.keep(made)
    return image, made


@contextmanager
def attached(place: Place, image: Image, made: Localised, *, background: bool) -> Iterator[Attachment]:
    with ChunkStore(place.base) as store:
        yield store.attach(made.metas, Objects(dict(image.objects)), background=background)


MAPPING = """
import mmap, sys
with open(sys.argv[1], "rb") as opened:
    print(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)[0])
"""


def assert_is_absent(path: Path, size: int) -> None:
    """Every page of the file is an error, by every way of reading."""
    with path.open("rb", buffering=0) as opened:
        for offset in range(0, size, 64 * KIB):
            with pytest.raises(OSError, match="Input/output error") as refusal:
                os.pread(opened.fileno(), 1, offset)
            assert refusal.value.errno == errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()
    mapped = subprocess.run([sys.executable, "-c", MAPPING, path], capture_output=True, check=False)
    assert mapped.returncode == -7, mapped  # SIGBUS


def test_what_is_absent_is_an_error_and_right_as_soon_as_it_is_there(place: Place) -> None:
    image, made = lazy(place)
    with place.mounted(made) as top, attached(place, image, made, background=False) as attachment:
        assert_is_absent(top / "big", len(BIG))
        with pytest.raises(OSError, match="Input/output error"):
            subprocess.run([top / "program"], check=False)
        assert (top / "empty").read_bytes() == b""
        attachment.start_background()
        assert attachment.wait_complete(30)
        assert (top / "big").read_bytes() == BIG
        with (
            (top / "mapped").open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        ):
            assert mapped[:] == BIG[: 3 * MIB]
        done = subprocess.run([top / "program"], capture_output=True, check=True)
        assert done.stdout == b"started\n"
        assert_shows(bytes(top), LAZY)


def test_readers_see_right_bytes_or_errors_while_the_store_is_filled(place: Place) -> None:
    """Each page, at every moment: absent or right."""
    image, made = lazy(place)
    wrong: list[int] = []
    refused = 0
    done = threading.Event()
    with place.mounted(made) as top, attached(place, image, made, background=False) as attachment:
        descriptor = os.open(top / "big", os.O_RDONLY)

        def read_on() -> None:
            nonlocal refused
            picking = random.Random(2)
            while not done.is_set():
                offset = picking.randrange(0, len(BIG), PAGE)
                size = picking.choice([1, PAGE, 300_000])
                try:
                    found = os.pread(descriptor, size, offset)
                except OSError as error:
                    assert error.errno == errno.EIO
                    refused += 1
                    continue
                if found != BIG[offset : offset + len(found)] or not found:
                    wrong.append(offset)

        readers = [threading.Thread(target=read_on) for _ in range(3)]
        for reader in readers:
            reader.start()
        try:
            attachment.start_background()
            assert attachment.wait_complete(30)
        finally:
            done.set()
            for reader in readers:
                reader.join()
            os.close(descriptor)
        assert wrong == []
        assert refused > 0
        assert (top / "big").read_bytes() == BIG


def test_a_window_cut_behind_its_back_leaves_cached_pages_right_and_the_others_errors(place: Place) -> None:
    image, made = lazy(place)
    with place.mounted(made) as top, attached(place, image, made, background=True) as attachment:
        assert attachment.wait_complete(30)
        descriptor = os.open(top / "big", os.O_RDONLY)
        try:
            # Without readahead a read brings in exactly its pages.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            cached = range(0, len(BIG), 32 * PAGE)
            for offset in cached:
                assert os.pread(descriptor, PAGE, offset) == BIG[offset : offset + PAGE]
            for device in made.devices:
                os.truncate(place.window(device.id), 0)
            for offset in cached:
                assert os.pread(descriptor, PAGE, offset) == BIG[offset : offset + PAGE]
                if offset + PAGE < len(BIG):
                    with pytest.raises(OSError, match="Input/output error"):
                        os.pread(descriptor, PAGE, offset + PAGE)
            attachment.close()
            with attached(place, image, made, background=True) as again:
                assert again.wait_complete(30)
            assert b"".join(os.pread(descriptor, PAGE, at) for at in range(0, len(BIG), PAGE)) == BIG
        finally:
            os.close(descriptor)


def test_a_mount_goes_on_with_the_file_it_holds_whatever_its_name_leads_to(place: Place) -> None:
    """Why windows are completed in place: a new file under the name helps no mount that lives."""
    image, made = lazy(place)
    contents = window_contents(made, image.devices)
    first, *others = made.devices
    place.window(first.id).write_bytes(contents[first.id])
    with place.mounted(made) as top:
        for device in made.devices:
            place.window(device.id).unlink()
            place.window(device.id).write_bytes(contents[device.id])
        with (top / "big").open("rb", buffering=0) as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert opened.read(PAGE) == BIG[:PAGE]
            with pytest.raises(OSError, match="Input/output error"):
                os.pread(opened.fileno(), PAGE, len(BIG) // 2 // PAGE * PAGE)
    assert others


def test_a_verified_prefix_is_readable_and_what_follows_is_an_error(place: Place) -> None:
    image, made = lazy(place)
    contents = window_contents(made, image.devices)
    bootstrap = made.bootstrap
    inode = dict(bootstrap.walk())[b"/big"]
    first = made.windows[0][0]
    extent = bootstrap.extents(inode)[0]
    assert extent.blob_offset == first.start == 0
    half = first.length // 2 // PAGE * PAGE
    place.window(first.id).write_bytes(contents[first.id][:half])
    with place.mounted(made) as top:
        descriptor = os.open(top / "big", os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(descriptor, half - PAGE, 0) == BIG[: half - PAGE]
            with pytest.raises(OSError, match="Input/output error"):
                os.pread(descriptor, PAGE, half)
        finally:
            os.close(descriptor)


def test_a_mount_holds_its_windows_until_the_last_file_is_closed(place: Place) -> None:
    image = image_of(LAZY, chunk_size=256 * KIB, batch_size=MIB)
    made = complete(place, image)
    asked = [os.open(place.window(device.id), os.O_RDONLY) for device in made.devices]
    try:
        assert not any(map(is_held, asked))
        place.mount(made.devices)
        assert all(map(is_held, asked))
        opened = os.open(place.mountpoint / "big", os.O_RDONLY)
        detach(place.mountpoint, lazy=True)
        assert all(map(is_held, asked))
        os.close(opened)
        assert not any(map(is_held, asked))
    finally:
        for descriptor in asked:
            os.close(descriptor)


def test_more_than_five_thousand_windows_are_one_mount(place: Place) -> None:
    root = tree(*(file(b"%05d" % number, b"%d" % number * 300) for number in range(5200)))
    image = image_of(root, chunk_size=4 * KIB, batch_size=4 * KIB)
    made = complete(place, image, run=1)
    assert len(made.devices) == 5200
    with place.mounted(made) as top:
        assert_shows(bytes(top), root)
    assert mount_at(place.mountpoint) is None


def test_the_mount_needs_no_path_to_be_short(place: Place) -> None:
    deep = place.base / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    made = complete(far := Place(deep), image_of(LAZY, chunk_size=MIB))
    with far.mounted(made) as top:
        assert_shows(bytes(top), LAZY)


def test_a_mount_can_be_read_before_it_is_attached_and_is_gone_if_it_never_is(place: Place) -> None:
    made = complete(place, image_of(LAZY))
    before = len(mount_table())
    hold = place.base / "hold"
    hold.touch()
    root = detached(place.image, place.windows.path, [device.id for device in made.devices], hold)
    descriptor = os.open("program", os.O_RDONLY, dir_fd=root)
    assert os.read(descriptor, 100_000) == PROGRAM
    os.close(descriptor)
    assert len(mount_table()) == before
    os.close(root)
    asked = os.open(place.window(made.devices[0].id), os.O_RDONLY)
    assert not is_held(asked)
    os.close(asked)


def test_the_mount_is_in_the_table_with_its_image_and_read_only(place: Place) -> None:
    made = complete(place, image_of(LAZY))
    with place.mounted(made) as top:
        entry = mount_at(top)
        assert entry is not None
        assert (entry.fstype, entry.source) == (KERNEL_TYPE, str(place.image))
        assert os.statvfs(top).f_flag & os.ST_RDONLY
        with pytest.raises(OSError, match="Read-only file system"):
            (top / "new").touch()


def test_a_missing_window_file_is_refused_and_nothing_is_mounted(place: Place) -> None:
    made = complete(place, image_of(LAZY))
    place.window(made.devices[-1].id).unlink()
    with pytest.raises(MountFailed, match="a window of the image has no file"):
        place.mount(made.devices)
    assert mount_at(place.mountpoint) is None
    shutil.rmtree(place.windows.path)
    with pytest.raises(MountFailed, match="cannot open its windows"):
        place.mount(made.devices)


def test_a_wrong_number_of_windows_is_refused(place: Place) -> None:
    made = complete(place, image_of(LAZY))
    with pytest.raises(MountFailed, match="dmesg"):
        place.mount(made.devices[:-1])


def test_a_file_system_that_cannot_carry_images_is_named(place: Place) -> None:
    made = complete(place, image_of(LAZY))
    memory = Path("/dev/shm") / f"nopull-test-{os.getpid()}"
    memory.write_bytes(made.raw)
    try:
        with pytest.raises(ErofsMissing, match="cannot carry EROFS images in files"):
            place.mount(made.devices, image=memory)
        with pytest.raises(ErofsMissing, match="--root"):
            probe(memory.parent)
    finally:
        memory.unlink()


def test_others_than_root_are_told_so(place: Place) -> None:
    complete(place, image_of(LAZY))
    place.base.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(ErofsForbidden, match="need root"):
            probe(place.base)
        with pytest.raises(ErofsForbidden, match="need root"):
            mount(place.image, Path("/"), [], place.image, place.mountpoint)
    finally:
        os.seteuid(0)


def test_the_probe_says_yes_here_and_leaves_nothing(place: Place) -> None:
    before = sorted(place.base.iterdir())
    probe(place.base)
    assert sorted(place.base.iterdir()) == before


@pytest.mark.parametrize(
    ("shown", "complaint"),
    [([bytes(4096)], "shows zeros"), ([None, None], "does not see"), ([None, bytes(4096)], "does not see")],
)
def test_the_probe_refuses_kernels_that_would_lie(
    place: Place, monkeypatch: pytest.MonkeyPatch, shown: list[bytes | None], complaint: str
) -> None:
    """There is no such kernel here, so what it reads is put in its mouth."""
    answers = iter(shown)
    monkeypatch.setattr("erofs_fs.probe._read", lambda _: next(answers))
    with pytest.raises(ErofsMissing, match=complaint):
        probe(place.base)
    assert not list(place.base.glob(".probe*"))
