"""Real mounts through FUSE: the same tree and bytes as the source, and nothing left however they end."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import signal
import socket as sockets
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erofs_fs.mount_table import mount_table
from erofs_fs.pids import await_end
from fuse_fs.errors import MountpointInvalid
from fuse_fs.mount import LIBRARY
from launch import mounts
from launch.control import ask
from launch.errors import ImageNotConverted, MountBusy, NotMounted
from launch.fuse_mounts.server import start_mount
from launch.images.image_request import ImageRequest
from launch.mount_request import MountRequest
from launch.mounts import MountRecord, State
from launch.umount import clean, unmount
from rafs.bootstrap_writer import write_bootstrap
from registry_client.errors import NotFound, Unreachable
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch.published import publish
from tests.support import command
from tests.support.command import COMMAND, clear
from tests.support.debian_registry import DebianRegistry
from tests.support.fixtures import fixture
from tests.support.images import Image, image_of
from tests.support.reachable import AS_NOBODY, reachable_command
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
from tests.system.test_kernel_mount import assert_shows

pytestmark = pytest.mark.system

BIG = random.Random(1).randbytes(6_000_000)

EVERYTHING = tree(
    file(b"big", BIG, mtime=1_600_000_000, mtime_ns=123_456_789),
    file(b"empty", mode=0),
    file(b"set-uid", b"#!/bin/sh\n", mode=0o6755, uid=1000, gid=70_000),
    file(b"\xff\xfe\x01 not UTF-8", b"bytes", xattrs={b"user.a": b"1", b"trusted.\xff": b"\0" * 300}),
    file(b"before 1970", b"x", mtime=-5, mtime_ns=250_000_000),
    hardlink(b"second name", b"/big"),
    symlink(b"link", b"\xfe/../somewhere"),
    fifo(b"fifo"),
    socket(b"socket"),
    char_device(b"null", 1, 3, mode=0o666),
    block_device(b"block", 300, 70_000),
    directory(
        b"directory",
        *(file(b"f%04d" % number, b"%d" % number) for number in range(700)),
        directory(b"deep", file(b"er", b"end", uid=(1 << 32) - 3)),
        mode=0o1777,
        uid=5,
        mtime=77,
    ),
    mode=0o750,
    mtime=99,
)


@dataclass
class Place:
    """Where a test mounts, with a state root of its own; everything is taken away at the end."""

    base: Path

    def __post_init__(self) -> None:
        self.root = self.base / "root"
        self.mountpoint = self.base / "mountpoint"
        self.mountpoint.mkdir()

    def publish(self, source: Entry | Image) -> str:
        made = source if isinstance(source, Image) else image_of(source)
        return publish(made, f"oci:{self.base / 'layout'}:v1", self.base).reference

    def request(self, reference: str, *, timeout: float = 60, bound: bool = False) -> MountRequest:
        options = RegistryOptions(timeout=timeout)
        image = ImageRequest(parse_reference(reference), options, background=False)
        return MountRequest(image, self.mountpoint, self.root, bound=bound)

    def mount(self, reference: str, *, timeout: float = 60, bound: bool = False) -> MountRecord:
        return start_mount(self.request(reference, timeout=timeout, bound=bound))

    def clear(self) -> None:
        clear(self.base, self.root)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module", params=["own protocol", "libfuse2"])
def mounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """EVERYTHING, mounted once for all tests that only look: through our own protocol and through libfuse."""
    made = Place(tmp_path_factory.mktemp("everything"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(LIBRARY, request.param)
            made.mount(made.publish(EVERYTHING))
        yield made.mountpoint
    finally:
        made.clear()


def below(mountpoint: Path, path: bytes) -> bytes:
    return os.fsencode(mountpoint) + path.rstrip(b"/")


def test_the_mounted_tree_is_the_source_attribute_by_attribute(mounted: Path) -> None:
    assert_shows(os.fsencode(mounted), EVERYTHING)
    wanted = expected(EVERYTHING)
    found = {path: os.lstat(below(mounted, path)) for path in wanted}
    assert len({one.st_ino for one in found.values()}) == len({entry.inode_of for entry in wanted.values()})
    for path, entry in wanted.items():
        if stat.S_ISREG(entry.mode):
            assert found[path].st_blocks == -(-len(entry.content) // 4096) * 8, path


def test_listings_have_every_name_with_type_and_number(mounted: Path) -> None:
    wanted = expected(EVERYTHING)
    listed = set()
    for folder in (path for path, entry in wanted.items() if stat.S_ISDIR(entry.mode)):
        with os.scandir(below(mounted, folder)) as entries:
            for entry in entries:
                path = folder.rstrip(b"/") + b"/" + entry.name
                listed.add(path)
                assert entry.inode() == entry.stat(follow_symlinks=False).st_ino
                assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(wanted[path].mode)
                assert entry.is_symlink() == stat.S_ISLNK(wanted[path].mode)
    assert listed == set(wanted) - {b"/"}


def test_the_mount_is_read_only_and_keeps_set_uid(mounted: Path) -> None:
    with pytest.raises(OSError, match="Read-only") as refused:
        (mounted / "new").write_bytes(b"")
    assert refused.value.errno == errno.EROFS
    flags = os.statvfs(mounted).f_flag
    assert flags & os.ST_RDONLY and not flags & os.ST_NOSUID and not flags & os.ST_NODEV
    assert os.statvfs(mounted).f_files == len({entry.inode_of for entry in expected(EVERYTHING).values()}) + 1


@given(data=st.data())
def test_random_reads_and_mappings_equal_the_source(mounted: Path, data: st.DataObject) -> None:
    one = st.tuples(st.integers(0, len(BIG) + 5000), st.integers(1, 400_000))
    ranges = st.lists(one, min_size=1, max_size=8)
    with (mounted / "big").open("rb") as opened:
        # Page cache dropped: each example asks the server again.
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for offset, size in data.draw(ranges):
                assert os.pread(opened.fileno(), size, offset) == BIG[offset : offset + size]
                assert mapped[offset : offset + size] == BIG[offset : offset + size]


def test_a_large_directory_is_listed_whole(place: Place) -> None:
    names = {b"name %06d" % number for number in range(50_000)}
    place.mount(place.publish(tree(directory(b"many", *map(file, sorted(names))))))
    assert {os.fsencode(path.name) for path in (place.mountpoint / "many").iterdir()} == names
    assert os.lstat(below(place.mountpoint, b"/many/name 049999")).st_size == 0


def test_files_beyond_four_gib_are_read_at_any_place(place: Place) -> None:
    made = image_of(tree(file(b"x", b"A" * 65536 + b"B" * (65536 - 7))))
    # The same two chunks again and again: a long file from a small blob.
    long = made.root.children[b"x"]
    count = (5 << 30) // 65536
    first, second = long.chunks[:2]
    long.chunks = [first] * (count - 1) + [second]
    long.size = count * 65536 - 7
    bootstrap = write_bootstrap(made.root, made.blobs, chunk_size=65536)
    place.mount(place.publish(replace(made, bootstrap=bootstrap)))
    name = place.mountpoint / "x"
    assert name.stat().st_size == (5 << 30) - 7
    with name.open("rb") as opened:
        assert os.pread(opened.fileno(), 10, (4 << 30) + 12345) == b"A" * 10
        assert os.pread(opened.fileno(), 100, (5 << 30) - 17) == b"B" * 10


def test_an_image_of_nydus_tools_shows_its_files(place: Place) -> None:
    folder = fixture("nydus") / "v6-2.2"
    place.mount(f"rafs:{folder / 'rafs-v6-2.2.boot'}")
    derived = (folder / "be7d77ee.blob.data.derived").read_bytes()
    found = [path for path in place.mountpoint.rglob("*") if path.is_file() and not path.is_symlink()]
    assert found
    for path in found:
        content = path.read_bytes()
        assert len(content) == path.stat().st_size and content[:4096] in derived


def test_a_record_tells_where_and_what_the_mount_is(place: Place) -> None:
    record = place.mount(place.publish(tree(file(b"f", b"x"))))
    assert record.mountpoint == place.mountpoint.resolve()
    assert record.config is not None and json.loads(record.config.read_bytes())["os"] == "linux"
    entry = next(entry for entry in mount_table() if entry.mountpoint == record.mountpoint)
    assert entry.device == record.device and entry.source == f"nopull:{record.pinned}"
    assert mounts.find(place.root, place.mountpoint) == record
    assert mounts.state_of(record) is State.MOUNTED
    status = ask(record.control)
    assert status["pids"] == {"server": record.server}
    assert status["progress"]["windows_total"] == 1
    (place.mountpoint / "f").read_bytes()
    # The reader was answered from the verified part of a window whose end was still to be settled.
    while not ask(record.control)["progress"]["complete"]:
        time.sleep(0.01)


def test_unmounting_ends_the_server_and_leaves_nothing(place: Place) -> None:
    record = place.mount(place.publish(tree(file(b"f", b"x"))))
    assert unmount(place.mountpoint, place.root) is None
    assert not mounts.server_lives(record)
    assert list(place.mountpoint.iterdir()) == []
    assert mounts.records(place.root) == []
    assert list((place.root / "run").iterdir()) == list((place.root / "log").iterdir()) == []
    with pytest.raises(NotMounted):
        unmount(place.mountpoint, place.root)


def test_unmounting_by_other_means_ends_the_server_too(place: Place) -> None:
    record = place.mount(place.publish(tree(file(b"f", b"x"))))
    subprocess.run(["umount", place.mountpoint], check=True)
    assert await_end(record.server, 15)
    assert mounts.records(place.root) == []


def test_a_mount_in_use_is_busy_and_lazily_unmounted(place: Place) -> None:
    record = place.mount(place.publish(tree(file(b"f", BIG))))
    with (place.mountpoint / "f").open("rb") as opened:
        with pytest.raises(MountBusy, match="--lazy"):
            unmount(place.mountpoint, place.root)
        assert mounts.state_of(record) is State.MOUNTED
        assert "is open there" in (unmount(place.mountpoint, place.root, lazy=True) or "")
        assert mounts.state_of(record) is State.DETACHED
        assert opened.read() == BIG
        # The place is free again at once.
        again = place.mount(f"oci:{place.base / 'layout'}:v1")
        assert mounts.find(place.root, place.mountpoint) == again
    assert await_end(record.server, 15)
    assert [known.id for known in mounts.records(place.root)] == [again.id]


def test_unmounting_while_reading_gives_right_bytes_or_an_error(place: Place) -> None:
    place.mount(place.publish(tree(file(b"f", BIG))))
    outcomes: list[object] = []

    def read() -> None:
        try:
            while (right := (place.mountpoint / "f").read_bytes() == BIG):
                outcomes.append(right)
        except OSError as error:
            outcomes.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    while not outcomes:
        time.sleep(0.001)
    unmount(place.mountpoint, place.root, lazy=True)
    reader.join()
    assert outcomes[-1] in (errno.ENOENT, errno.ENOTCONN)


def test_a_killed_server_means_not_connected_and_mounting_again_repairs(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"right")))
    dead = place.mount(reference)
    os.kill(dead.server, signal.SIGKILL)
    assert await_end(dead.server, 15)
    with pytest.raises(OSError, match="not connected") as refused:
        (place.mountpoint / "f").read_bytes()
    assert refused.value.errno == errno.ENOTCONN
    assert mounts.state_of(dead) is State.DEAD
    again = place.mount(reference)
    assert (place.mountpoint / "f").read_bytes() == b"right"
    assert mounts.find(place.root, place.mountpoint) == again
    states = {record.id: state for record, state in clean(place.root)}
    assert states == {dead.id: State.GONE, again.id: State.MOUNTED}


def test_a_dead_mount_is_unmounted_and_cleaned(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"right")))
    for remove in (lambda: unmount(place.mountpoint, place.root), lambda: clean(place.root)):
        dead = place.mount(reference)
        os.kill(dead.server, signal.SIGKILL)
        assert await_end(dead.server, 15)
        remove()
        assert list(place.mountpoint.iterdir()) == [] and mounts.records(place.root) == []


def test_a_place_whose_server_is_stuck_is_refused_as_taken(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"x")))
    record = place.mount(reference)
    os.kill(record.server, signal.SIGSTOP)
    try:
        refused = nopull(place, "mount", reference, str(place.mountpoint))
    finally:
        os.kill(record.server, signal.SIGCONT)
    assert refused.returncode == 7 and "is mounted there" in refused.stderr
    assert (place.mountpoint / "f").read_bytes() == b"x"


def test_places_that_are_taken_or_unfit_are_refused(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"x")))
    place.mount(reference)
    with pytest.raises(MountBusy, match="nopull:oci:"):
        place.mount(reference)
    assert (place.mountpoint / "f").read_bytes() == b"x"
    unmount(place.mountpoint, place.root)
    (place.mountpoint / "thing").write_bytes(b"")
    with pytest.raises(MountpointInvalid, match="not empty"):
        place.mount(reference)
    (place.mountpoint / "thing").unlink()
    place.mountpoint.rmdir()
    with pytest.raises(MountpointInvalid, match="no such directory"):
        place.mount(reference)
    assert mounts.records(place.root) == [] and list((place.root / "log").iterdir()) == []


def test_errors_of_the_image_arrive_as_what_they_are(place: Place) -> None:
    publish(image_of(tree(file(b"f"))), f"oci:{place.base / 'plain'}:v1", place.base, annotated=False)
    with pytest.raises(ImageNotConverted):
        place.mount(f"oci:{place.base / 'plain'}:v1")
    with pytest.raises(NotFound):
        place.mount(f"oci:{place.base / 'gone'}:v1")
    with pytest.raises(Unreachable):
        place.mount("docker://127.0.0.1:9/none:1", timeout=1)
    assert list(place.mountpoint.iterdir()) == []


def test_wrong_bytes_of_a_blob_are_an_error_with_a_line_in_the_log(place: Place) -> None:
    made = image_of(tree(file(b"f", BIG), file(b"g", b"good", blob=1)))
    first = made.blobs[0].id
    reference = place.publish(made)
    blob = place.base / "layout" / "blobs" / "sha256" / first
    raw = bytearray(blob.read_bytes())
    raw[len(raw) // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(raw)
    record = place.mount(reference)
    with pytest.raises(OSError, match="Input/output") as refused:
        (place.mountpoint / "f").read_bytes()
    assert refused.value.errno == errno.EIO
    assert (place.mountpoint / "g").read_bytes() == b"good"
    assert any("read /f" in line and first in line for line in record.log.read_text().splitlines())


def mount_command(place: Place, reference: str) -> list[str]:
    where = [str(place.mountpoint), "--root", str(place.root), "--driver", "fuse"]
    return [*COMMAND, "mount", reference, *where]


def test_foreground_serves_until_a_signal_and_leaves_nothing(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"x")))
    command = [*mount_command(place, reference), "--foreground"]
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline().endswith(f"(fuse, pid {server.pid})\n")
                opened = os.open(place.mountpoint / "f", os.O_RDONLY)
                assert os.read(opened, 9) == b"x"
                server.send_signal(number)
                assert server.wait(15) == 0
                with pytest.raises(OSError, match="not connected"):
                    os.close(opened)
            finally:
                server.kill()
        assert list(place.mountpoint.iterdir()) == [] and mounts.records(place.root) == []


def nopull(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return command.nopull(*words, "--root", place.root)


def test_the_commands_say_what_they_did(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"x")))
    done = nopull(place, "mount", "--driver", "fuse", reference, str(place.mountpoint))
    assert done.returncode == 0, done.stderr
    record = mounts.find(place.root, place.mountpoint)
    assert record is not None
    where = f"on {place.mountpoint} (fuse, pid {record.server})"
    assert done.stdout == f"mounted {reference}@{record.digest} {where}\n"
    listed = json.loads(nopull(place, "ps", "--json").stdout)
    assert [(row["mountpoint"], row["state"]) for row in listed] == [(str(place.mountpoint), "mounted")]
    assert str(place.mountpoint) in nopull(place, "ps").stdout
    again = nopull(place, "mount", "--driver", "fuse", reference, str(place.mountpoint))
    assert (again.returncode, again.stdout) == (7, "") and "unmount it first" in again.stderr
    done = nopull(place, "umount", str(place.mountpoint))
    assert (done.returncode, done.stdout) == (0, f"unmounted {place.mountpoint}\n"), done.stderr
    assert nopull(place, "umount", str(place.mountpoint)).returncode == 5
    assert json.loads(nopull(place, "ps", "--json").stdout) == []


def test_relative_paths_are_those_of_the_command(place: Place) -> None:
    place.publish(tree(file(b"f", b"x")))
    words = ["mount", "oci:layout:v1", "mountpoint", "--root", "root", "--driver", "fuse"]
    done = subprocess.run([*COMMAND, *words], cwd=place.base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (place.mountpoint / "f").read_bytes() == b"x"


def test_an_ordinary_user_mounts_through_fusermount(place: Place) -> None:
    if subprocess.run([*AS_NOBODY, "fusermount", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("an ordinary user cannot run fusermount here")
    reference = place.publish(tree(file(b"f", b"content"), file(b"set-uid", b"x", mode=0o4755)))
    for path in (place.base, *place.base.rglob("*")):
        os.chown(path, 65534, 65534)
    for parent in place.base.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    # A device node as udev makes it, and a mount table of its own: the machine stays as it is.
    with reachable_command() as command:
        script = f"""set -e
        mknod {place.base}/fuse c 10 229; chmod 666 {place.base}/fuse
        mount --bind {place.base}/fuse /dev/fuse
        run() {{ {" ".join(AS_NOBODY)} "$@"; }}
        nopull() {{ run {" ".join(command)} "$@" --root {place.root}; }}
        nopull mount {reference} {place.mountpoint}
        run cat {place.mountpoint}/f; echo
        run findmnt -n -o OPTIONS {place.mountpoint}
        nopull umount {place.mountpoint}
        ls {place.mountpoint} | wc -l"""
        shell = ["unshare", "-m", "sh", "-c", script]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    mounted, content, options, unmounted, left = done.stdout.splitlines()
    assert (content, left) == ("content", "0")
    assert mounted.startswith("mounted") and unmounted.startswith("unmounted")
    assert "nosuid" in options and "allow_other" not in options


def test_a_bound_server_goes_when_its_starter_is_killed(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"x")))
    starter = os.fork()
    if not starter:
        try:
            place.mount(reference, bound=True)
            signal.pause()
        finally:
            os._exit(1)
    while not (record := mounts.find(place.root, place.mountpoint)):
        assert os.waitpid(starter, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(starter, signal.SIGKILL)
    os.waitpid(starter, 0)
    assert await_end(record.server, 15)
    assert list(place.mountpoint.iterdir()) == [] and mounts.records(place.root) == []


def test_ending_does_not_wait_for_a_reader_who_waits_for_the_network(place: Place) -> None:
    with DebianRegistry() as registry:
        name = f"docker://{registry.host}/app:1"
        publish(image_of(tree(file(b"f", BIG))), name, place.base)
        record = place.mount(name)
        os.kill(registry.pid, signal.SIGSTOP)
        try:
            failed: list[int | None] = []

            def read() -> None:
                try:
                    (place.mountpoint / "f").read_bytes()
                except OSError as error:
                    failed.append(error.errno)

            reader = threading.Thread(target=read)
            reader.start()
            while not ask(record.control)["progress"]["demand"]["requests"]:
                time.sleep(0.01)
            os.kill(record.server, signal.SIGTERM)
            assert await_end(record.server, 10)
            reader.join(10)
            assert failed and failed[0] in (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED)
        finally:
            os.kill(registry.pid, signal.SIGCONT)
    assert list(place.mountpoint.iterdir()) == []


def test_two_mounts_on_one_place_at_once_leave_one(place: Place) -> None:
    reference = place.publish(tree(file(b"f", b"x")))
    command = mount_command(place, reference)
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    said = [process.communicate(timeout=60)[1] for process in running]
    codes = sorted(process.returncode for process in running)
    assert codes == [0, 7, 7, 7], said
    assert sum(entry.mountpoint == place.mountpoint for entry in mount_table()) == 1


def test_from_a_registry_and_then_without_it(place: Place) -> None:
    content = BIG[:3_000_000]
    with DebianRegistry() as registry:
        name = f"docker://{registry.host}/app:1"
        published = publish(image_of(tree(file(b"f", content), file(b"g", b"g", blob=1))), name, place.base)
        record = place.mount(name)
        assert record.digest == published.manifest.digest
        assert (place.mountpoint / "f").read_bytes() == content
        unmount(place.mountpoint, place.root)
        registry.stop()

        known = place.mount(name, timeout=2)
        assert any("last known" in warning for warning in known.warnings)
        assert (place.mountpoint / "f").read_bytes() == content
        unmount(place.mountpoint, place.root)
        place.mount(f"{name.rpartition(':')[0]}@{record.digest}", timeout=2)
        assert (place.mountpoint / "f").read_bytes() == content
        unmount(place.mountpoint, place.root)
        with pytest.raises(Unreachable):
            place.mount(f"{name}-other", timeout=1)


def test_two_mounts_share_what_was_fetched(place: Place) -> None:
    with DebianRegistry() as registry:
        name = f"docker://{registry.host}/app:1"
        publish(image_of(tree(file(b"f", BIG))), name, place.base)
        place.mount(name)
        (place.mountpoint / "f").read_bytes()
        second = place.base / "second"
        second.mkdir()
        before = len(registry.accesses())
        start_mount(replace(place.request(name), mountpoint=second))
        assert (second / "f").read_bytes() == BIG
        asked = [access for access in registry.accesses()[before:] if "/blobs/" in access.path]
        assert asked == []


def test_a_mount_that_is_interrupted_while_it_starts_leaves_no_server(place: Place) -> None:
    # A registry that accepts and never answers.
    with sockets.create_server(("127.0.0.1", 0)) as silent:
        reference = f"docker://127.0.0.1:{silent.getsockname()[1]}/app:1"
        command = mount_command(place, reference)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as starting:
            connection, _ = silent.accept()
            children = Path(f"/proc/{starting.pid}/task/{starting.pid}/children").read_text().split()
            starting.send_signal(signal.SIGTERM)
            assert starting.wait(15) == 143
            connection.close()
        assert children and all(await_end(int(child), 15) for child in children)
    assert list(place.mountpoint.iterdir()) == [] and mounts.records(place.root) == []
