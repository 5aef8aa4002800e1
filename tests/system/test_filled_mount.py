"""`nopull mount --driver erofs` on a kernel that asks nobody: filled first, and nobody left to serve it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.progress import SilentProgress
from chunk_store import ChunkStore, ChunkUnavailable
from chunk_store.keeper_client import KEEPER
from chunk_store.window_file import WindowDirectory
from erofs_fs.errors import ErofsForbidden
from erofs_fs.holds import hold_path, make_hold
from erofs_fs.mount import mount
from erofs_fs.mount_table import KERNEL_TYPE
from launch import mounts
from launch.driver_choice import SEEN, now
from launch.errors import ImageIncomplete, ImageInvalid, MountBusy, NotMounted
from launch.fuse_mounts.server import start_mount
from launch.held_signals import HeldSignals
from launch.images.image_request import ImageRequest
from launch.images.lazy_image import open_image
from launch.images.localised_image import NAME, kept_image
from launch.kernel_mounts.filled_mount import mount_filled
from launch.mount_request import MountRequest
from launch.mountpoint import detach, mount_at
from launch.mounts import MountRecord, State
from launch.umount import clean, unmount
from rafs.localised import read_devices
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch.published import publish
from tests.support.bootstrap_edits import Editor
from tests.support.command import COMMAND, able, clear, nopull
from tests.support.debian_registry import DebianRegistry
from tests.support.fixtures import fixture
from tests.support.images import Image, image_of
from tests.support.trees import Entry, file, tree
from tests.system.test_fuse_mount import BIG
from tests.system.test_kernel_mount import EVERYTHING, assert_shows, names_below
from tests.system.test_lazy_kernel_mount import SIGNALLED

pytestmark = pytest.mark.system

SMALL = tree(file(b"a", b"content of a"), file(b"big", BIG))


@dataclass
class Place:
    """Where a test mounts, with a state root of its own; everything is taken away at the end."""

    base: Path

    def __post_init__(self) -> None:
        self.root = self.base / "root"
        self.mountpoint = self.base / "mountpoint"
        self.mountpoint.mkdir()

    def ask_nobody(self) -> None:
        """Have the command believe that the kernel does not ask before it reads."""
        seen = self.root / KEEPER / SEEN
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.write_text(json.dumps({**now(), "missing": "the test says so"}))

    def publish(self, source: Entry | Image) -> str:
        made = source if isinstance(source, Image) else image_of(source)
        return publish(made, f"oci:{self.base / 'layout'}:v1", self.base).reference

    def request(
        self, reference: str, *, driver: str = "erofs", timeout: float = 20, background: bool = True
    ) -> MountRequest:
        options = RegistryOptions(timeout=timeout)
        image = ImageRequest(parse_reference(reference), options, background=background)
        return MountRequest(image, self.mountpoint, self.root, driver=driver)

    def mount(self, reference: str, *, timeout: float = 20, background: bool = True) -> MountRecord:
        request = self.request(reference, timeout=timeout, background=background)
        with HeldSignals() as held:
            return mount_filled(request, "the test says so", SilentProgress(), held)

    def command(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        self.ask_nobody()
        done = nopull(*words, "--root", self.root)
        assert done.returncode == code, done
        return done

    def kept(self) -> Path:
        (path,) = self.root.glob(f"*/*/{NAME}")
        return path

    def clear(self) -> None:
        clear(self.base, self.root)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(able(tmp_path))
    try:
        yield made
    finally:
        made.clear()


def seen(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Every attribute and byte of every name below *top*, as a comparison of drivers needs it."""
    found: dict[bytes, tuple[object, ...]] = {}
    base = os.fsencode(top)
    for path in names_below(base):
        name = base + path
        status = os.lstat(name)
        listed = sorted(os.listxattr(name, follow_symlinks=False))
        content = b""
        if status.st_mode >> 12 == 8:
            content = Path(os.fsdecode(name)).read_bytes()
        elif status.st_mode >> 12 == 10:
            content = os.readlink(name)  # noqa: PTH115 - bytes
        found[path] = (
            status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_size,
            status.st_mtime_ns, status.st_rdev,
            [(key, os.getxattr(name, key, follow_symlinks=False)) for key in listed], content,
        )  # fmt: skip
    return found


def test_the_kernel_shows_what_fuse_shows_and_both_what_was_converted(place: Place) -> None:
    reference = place.publish(image_of(EVERYTHING))
    request = place.request(reference, driver="fuse", background=False)
    start_mount(request)
    through_fuse = seen(place.mountpoint)
    unmount(place.mountpoint, place.root)
    place.mount(reference)
    assert seen(place.mountpoint) == through_fuse
    assert_shows(bytes(place.mountpoint), EVERYTHING)


@pytest.mark.parametrize("name", ["nydusify", "nydusify-2arch"])
def test_images_of_nydusify_show_the_same_through_both_drivers(place: Place, name: str) -> None:
    reference = f"oci:{fixture(f'nydus/vectors/{name}') / 'layout'}"
    listed = json.loads((fixture(f"nydus/vectors/{name}") / "layout" / "index.json").read_text())
    tags = [
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in listed["manifests"]
        if "org.opencontainers.image.ref.name" in entry.get("annotations", {})
    ]
    reference += f":{next(tag for tag in tags if 'nydus' in tag)}"
    start_mount(place.request(reference, driver="fuse", background=False))
    through_fuse = seen(place.mountpoint)
    unmount(place.mountpoint, place.root)
    place.mount(reference)
    assert seen(place.mountpoint) == through_fuse
    assert len(through_fuse) > 10


def test_the_command_fills_mounts_and_leaves_no_process(place: Place) -> None:
    reference = place.publish(SMALL)
    done = place.command("mount", reference, str(place.mountpoint), "--driver", "erofs")
    assert re.fullmatch(r"mounted \S+@sha256:[0-9a-f]{64} on \S+ \(erofs\)\n", done.stdout)
    assert re.search(r"^fetching: 6\.\d MB in \d+\.\d s, all is local$", done.stderr, re.MULTILINE)
    assert_shows(bytes(place.mountpoint), SMALL)
    (record,) = mounts.records(place.root)
    assert (record.driver, record.pids, mounts.state_of(record)) == ("erofs", {}, State.MOUNTED)

    listed = place.command("ps").stdout.splitlines()
    assert re.fullmatch(rf"{place.mountpoint}\s+\S+\s+erofs\s+-\s+mounted\s+100% of 6\.\d MB", listed[1])
    (row,) = json.loads(place.command("ps", "--json").stdout)
    assert row["progress"]["complete"] is True
    explained = place.command("explain", str(place.mountpoint)).stdout
    assert "process  none is needed" in explained
    assert re.search(r"not lazy\n +fetched whole, before the mount", explained)
    assert re.search(r"^local    (\d+) of \1 windows, .* \(100 %\)$", explained, re.MULTILINE)
    assert json.loads(place.command("explain", str(place.mountpoint), "--json").stdout)["pids"] == []

    place.command("umount", str(place.mountpoint))
    assert mount_at(place.mountpoint) is None
    assert mounts.records(place.root) == []
    assert len(place.command("ps").stdout.splitlines()) == 1


def test_a_local_image_is_mounted_again_without_asking_anybody(place: Place) -> None:
    with DebianRegistry() as registry:
        reference = publish(image_of(SMALL), f"docker://{registry.host}/app:v1", place.base).reference
        digest = place.mount(reference).digest
        unmount(place.mountpoint, place.root)
    before = place.kept().stat()
    pinned = reference.rpartition(":")[0] + "@" + digest
    done = place.command("mount", pinned, str(place.mountpoint), "--driver", "erofs", "--no-background")
    assert "fetching" not in done.stderr
    assert_shows(bytes(place.mountpoint), SMALL)
    after = place.kept().stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_bare_bootstrap_is_mounted_too(place: Place) -> None:
    image = image_of(SMALL)
    (place.base / "image.boot").write_bytes(image.bootstrap)
    for name, raw in image.objects.items():
        (place.base / name).write_bytes(raw)
    place.mount(f"rafs:{place.base / 'image.boot'}")
    assert_shows(bytes(place.mountpoint), SMALL)
    assert place.kept().parent.parent.name == "bare"


def test_what_is_not_here_is_not_fetched_against_the_users_will(place: Place) -> None:
    reference = place.publish(SMALL)
    with pytest.raises(ImageIncomplete, match=r"needs all of it, 6\.\d MB are not here"):
        place.mount(reference, background=False)
    assert mount_at(place.mountpoint) is None
    place.command("mount", reference, str(place.mountpoint), "--driver", "erofs", "--no-background", code=7)


def test_a_fill_that_fails_is_an_error_and_what_came_stays(place: Place) -> None:
    image = image_of(SMALL)
    reference = place.publish(image)
    (blob,) = image.objects
    stored = place.base / "layout" / "blobs" / "sha256" / blob
    raw = bytearray(stored.read_bytes())
    raw[len(raw) // 2] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(raw)
    began = time.monotonic()
    done = place.command("mount", reference, str(place.mountpoint), "--driver", "erofs", code=6)
    assert "wrong at the source: 1 window" in done.stderr
    assert time.monotonic() - began < 60
    assert mount_at(place.mountpoint) is None
    assert mounts.records(place.root) == []
    raw[len(raw) // 2] ^= 1
    stored.write_bytes(raw)
    done = place.command("mount", reference, str(place.mountpoint), "--driver", "erofs")
    fetched = re.search(r"fetching: (\d\.\d) MB", done.stderr)
    assert fetched is not None
    assert float(fetched[1]) < 6
    assert_shows(bytes(place.mountpoint), SMALL)


def test_a_fill_from_a_registry_that_is_gone_ends(place: Place) -> None:
    with DebianRegistry() as registry:
        reference = publish(image_of(SMALL), f"docker://{registry.host}/app:v1", place.base).reference
        with pytest.raises(ImageIncomplete):
            place.mount(reference, background=False)
    began = time.monotonic()
    with pytest.raises(ChunkUnavailable, match=r"nothing came for 2 s"):
        place.mount(reference, timeout=2)
    assert time.monotonic() - began < 60
    assert mount_at(place.mountpoint) is None


def test_an_image_that_breaks_the_format_is_never_mounted(place: Place) -> None:
    editor = Editor(image_of(SMALL).bootstrap)
    editor.inode(b"/a", nlink=7)
    good = image_of(SMALL)
    broken = Image(bytes(editor.raw), good.packed, good.blobs, good.objects, good.devices, good.root)
    reference = place.publish(broken)
    for _ in range(2):
        with pytest.raises(ImageInvalid, match=r"breaks its format, so it is not mounted: .*nlink"):
            place.mount(reference)
    assert mount_at(place.mountpoint) is None
    assert not list(place.root.glob("images/*/localised*"))


def test_a_damaged_localised_image_is_made_again(place: Place) -> None:
    reference = place.publish(SMALL)
    place.mount(reference)
    unmount(place.mountpoint, place.root)
    path = place.kept()
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    place.mount(reference)
    assert place.kept().read_bytes() == good
    assert_shows(bytes(place.mountpoint), SMALL)


def test_forms_of_older_versions_are_replaced(place: Place) -> None:
    reference = place.publish(SMALL)
    place.mount(reference)
    unmount(place.mountpoint, place.root)
    old = place.kept().rename(place.kept().with_name("localised-0.erofs"))
    place.mount(reference)
    assert place.kept().exists()
    assert not old.exists()


@pytest.mark.parametrize("foreground", [False, True])
def test_a_command_that_is_ended_when_the_mount_has_just_appeared_leaves_none(
    place: Place, foreground: bool
) -> None:
    place.ask_nobody()
    words = ["mount", place.publish(SMALL), str(place.mountpoint), "--root", str(place.root)]
    words += ["--driver", "erofs", *(["--foreground"] if foreground else [])]
    signalled = [sys.executable, "-c", SIGNALLED, "launch.kernel_mounts.filled_mount", "mount"]
    signalled += [str(int(signal.SIGTERM))]
    done = subprocess.run([*signalled, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == (0 if foreground else 143), done
    assert mount_at(place.mountpoint) is None
    assert mounts.records(place.root) == []


def test_the_mount_outlives_its_store_and_says_what_is_lacking(place: Place) -> None:
    reference = place.publish(SMALL)
    place.mount(reference)
    directory = WindowDirectory(place.root)
    window = read_devices(place.kept().read_bytes())[0]
    os.truncate(directory.path / window.id[:2] / window.id, 0)
    (row,) = json.loads(place.command("ps", "--json").stdout)
    assert row["progress"]["complete"] is False
    # Another mount of the image fills it again, in place: the first one sees it.
    other = place.base / "other"
    other.mkdir()
    request = replace(place.request(reference), mountpoint=other)
    with HeldSignals() as held:
        mount_filled(request, "the test says so", SilentProgress(), held)
    assert_shows(bytes(place.mountpoint), SMALL)
    assert_shows(bytes(other), SMALL)
    assert len(mounts.records(place.root)) == 2


def test_what_readers_of_a_fuse_mount_fetch_is_right_in_the_kernel_mount_at_once(place: Place) -> None:
    root = tree(file(b"first", BIG[:3_000_000], blob=0), file(b"second", BIG[3_000_000:], blob=1))
    reference = place.publish(root)
    with ChunkStore(place.root) as store:
        image = open_image(parse_reference(reference), RegistryOptions(), place.root)
        path, devices = kept_image(image, place.root, store.directory)
        image.close()
        os.close(make_hold(place.root, "held", path, None))
        names = [device.id for device in devices]
        mount(path, store.directory.path, names, hold_path(place.root, "held"), place.mountpoint)
    fuse = place.base / "fuse"
    fuse.mkdir()
    start_mount(replace(place.request(reference, driver="fuse", background=False), mountpoint=fuse))
    for name in ("first", "second"):
        with pytest.raises(OSError, match="Input/output error"):
            (place.mountpoint / name).read_bytes()
    assert (fuse / "first").read_bytes() == BIG[:3_000_000]
    assert (place.mountpoint / "first").read_bytes() == BIG[:3_000_000]
    with pytest.raises(OSError, match="Input/output error"):
        (place.mountpoint / "second").read_bytes()
    assert (fuse / "second").read_bytes() == BIG[3_000_000:]
    assert_shows(bytes(place.mountpoint), root)
    unmount(fuse, place.root)


def test_it_carries_an_overlay(place: Place) -> None:
    place.mount(place.publish(SMALL))
    upper, work, merged = (place.base / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    options = f"lowerdir={place.mountpoint},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    with (merged / "big").open("r+b") as opened:
        opened.seek(5)
        opened.write(b"changed")
    (merged / "a").unlink()
    assert (merged / "big").read_bytes() == BIG[:5] + b"changed" + BIG[12:]
    assert [path.name for path in merged.iterdir()] == ["big"]
    assert_shows(bytes(place.mountpoint), SMALL)


def test_the_place_is_judged_as_for_any_mount(place: Place) -> None:
    reference = place.publish(SMALL)
    place.mount(reference)
    with pytest.raises(MountBusy, match="is mounted there"):
        place.mount(reference)
    with (place.mountpoint / "a").open("rb"), pytest.raises(MountBusy, match="in use"):
        unmount(place.mountpoint, place.root)
    with (place.mountpoint / "big").open("rb") as opened:
        assert "is open there" in (unmount(place.mountpoint, place.root, lazy=True) or "")
        assert [state for _, state in clean(place.root)] == [State.DETACHED]
        assert opened.read() == BIG
    assert [state for _, state in clean(place.root)] == [State.GONE]
    assert clean(place.root) == []
    with pytest.raises(NotMounted):
        unmount(place.mountpoint, place.root)


def test_a_mount_whose_record_is_lost_can_still_be_unmounted(place: Place) -> None:
    record = place.mount(place.publish(SMALL))
    mounts.forget(place.root, record)
    place.command("umount", str(place.mountpoint))
    assert mount_at(place.mountpoint) is None


def test_a_mount_of_others_is_not_ours_to_unmount(place: Place) -> None:
    place.mount(place.publish(SMALL))
    with pytest.raises(NotMounted, match=f"try --root {place.root}$"):
        unmount(place.mountpoint, place.base / "another root")
    assert mount_at(place.mountpoint) is not None


def test_a_mount_taken_away_by_other_means_is_listed_once_and_forgotten(place: Place) -> None:
    record = place.mount(place.publish(SMALL))
    detach(place.mountpoint, lazy=False)
    assert clean(place.root) == [(record, State.GONE)]
    assert clean(place.root) == []


def test_an_interrupted_fill_leaves_no_mount(place: Place) -> None:
    with DebianRegistry() as registry:
        reference = publish(image_of(SMALL), f"docker://{registry.host}/app:v1", place.base).reference
        with pytest.raises(ImageIncomplete):
            place.mount(reference, background=False)
        registry.stop()
        place.ask_nobody()
        words = ["mount", reference, str(place.mountpoint), "--driver", "erofs", "--root", str(place.root)]
        running = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            time.sleep(1.5)
            assert running.poll() is None
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 130, said
    assert mount_at(place.mountpoint) is None


def test_others_than_root_learn_it_before_anything_is_fetched(place: Place) -> None:
    reference = place.publish(SMALL)
    os.seteuid(65534)
    try:
        with pytest.raises(ErofsForbidden, match="need root"):
            place.mount(reference)
    finally:
        os.seteuid(0)
    assert not place.root.exists()


def test_the_kernels_mounts_are_read_only_and_of_their_kind(place: Place) -> None:
    place.mount(place.publish(SMALL))
    entry = mount_at(place.mountpoint)
    assert entry is not None
    assert (entry.fstype, entry.source) == (KERNEL_TYPE, str(place.kept()))
    with pytest.raises(OSError, match="Read-only") as refusal:
        (place.mountpoint / "new").mkdir()
    assert refusal.value.errno == errno.EROFS
