"""No deadlock by design: what kernel mounts rely on, one rule after the other (docs/kernel-rules.md)."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunk_store.recent_failures import STILL_FAILED_SECONDS
from erofs_fs import fanotify, handover, readahead
from erofs_fs.errors import ErofsMissing, KeeperFailed
from erofs_fs.holds import hold_path
from erofs_fs.keeper_program import start_keeper
from erofs_fs.mount_table import KERNEL_TYPE, mount_table
from erofs_fs.probe import probe_events
from launch.kernel_mounts.keeper_start import keeper_status
from launch.mountpoint import detach
from tests.support.command import COMMAND
from tests.support.debian_registry import DebianRegistry
from tests.support.trees import directory, file, tree
from tests.system.kept_store import (
    PAGE,
    PATIENCE,
    KeptStore,
    Reading,
    Serving,
    Shown,
    content_of,
    random_tree,
    until,
)
from tests.system.test_keeper import pytestmark
from tests.system.test_lazy_kernel_mount import LARGE, Place, assert_right, place

__all__ = ["place", "pytestmark"]  # fixtures are found by their names here

CHECKOUT = Path(__file__).parents[2]
_CLASS_PRE_CONTENT, _CLOEXEC, _NONBLOCK, _UNLIMITED_QUEUE, _UNLIMITED_MARKS = 8, 1, 2, 0x10, 0x20
_THREADS = 0x100


def group_of(pid: int) -> str:
    """What the kernel says of the process's group of events and its marks."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if "fanotify" in str(descriptor.readlink()):
            return Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
    raise AssertionError("no group")


def watched_inodes(pid: int) -> set[int]:
    return {int(found, 16) for found in re.findall(r"fanotify ino:([0-9a-f]+) ", group_of(pid))}


def inodes(store: KeptStore, window_ids: list[str]) -> set[int]:
    return {store.window(window_id).stat().st_ino for window_id in window_ids}


# The group, and what is marked in it


def test_the_group_has_the_class_that_asks_and_no_limits(store: KeptStore) -> None:
    said = re.search(r"fanotify flags:([0-9a-f]+) event-flags:([0-9a-f]+)", group_of(store.start()))
    assert said is not None
    flags, event_flags = (int(found, 16) for found in said.groups())
    assert flags & 0xC == _CLASS_PRE_CONTENT
    wanted = _CLOEXEC | _NONBLOCK | _UNLIMITED_QUEUE | _UNLIMITED_MARKS | _THREADS
    assert flags & wanted == wanted
    assert event_flags & os.O_CLOEXEC and event_flags & os.O_ACCMODE == os.O_RDONLY


def test_windows_are_marked_while_something_of_them_is_absent_and_nothing_else_ever_is(
    store: KeptStore, shown: Shown
) -> None:
    """Least of all the image: since Linux 7.1 whoever mounts a marked one would wait for itself."""
    for window_id in shown.windows("f1"):
        store.fill(shown, window_id)
    pid = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        absent = [window_id for window_id in shown.right if window_id not in shown.windows("f1")]
        assert watched_inodes(pid) == inodes(store, absent)
        others = (shown.path, hold_path(store.root, "mountpoint"))
        assert not watched_inodes(pid) & {path.stat().st_ino for path in others}
        Serving(store, link, shown)
        assert content_of(top / "f0") == shown.content("f0")
        left = [window_id for window_id in absent if window_id not in shown.windows("f0")]
        assert watched_inodes(pid) == inodes(store, left)
        # The one mark of a mount is that of the door, and says what is to be ignored.
        (door,) = re.findall(r"fanotify mnt_id:\S+ mflags:\S+ mask:(\S+) ignored_mask:(\S+)", group_of(pid))
        assert [int(found, 16) for found in door] == [0, 0x10_0000]


def test_a_file_that_is_no_window_is_an_error_to_read_and_no_wait(store: KeptStore, shown: Shown) -> None:
    store.start()
    foreign = store.base / "foreign"
    foreign.write_bytes(b"not ours")
    with store.link() as link:
        opened = os.open(foreign, os.O_RDONLY)
        fanotify.watch(link.held[handover.GROUP], opened)
        os.close(opened)
        assert Reading(foreign, 0, 8).result() == errno.EIO


FILLING = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from erofs_fs.errors import PostTaken
from erofs_fs.filler_link import FillerLink
from erofs_fs.keeper_program import KeeperProgram
while True:
    try:
        link = FillerLink(Path(sys.argv[1]), KeeperProgram([], Path(os.devnull)), {})
        break
    except PostTaken:
        time.sleep(0.02)
descriptor = os.open(sys.argv[2], os.O_RDWR)
assert os.read(descriptor, 1) == b""
ThreadPoolExecutor().submit(os.pwrite, descriptor, bytes(4096), 0).result()
"""


def test_a_filler_that_opens_a_window_by_its_path_does_not_wait_for_itself(
    store: KeptStore, shown: Shown
) -> None:
    store.start()
    with store.link() as link:
        store.mount(link, shown)
    window = store.window(shown.windows("f0")[0])
    words = [sys.executable, "-S", "-c", FILLING, str(store.root), str(window)]
    subprocess.run(words, cwd=CHECKOUT, check=True, timeout=20)
    assert store.status()["counts"]["own"] == 2


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("does not ask", "does not ask before EROFS reads"),
        ("no range", "does not say which range"),
        ("shows zeros", "shows zeros for what is absent"),
        ("no group", "has no pre-content events"),
        ("no marks", "has no pre-content events"),
    ],
)
def test_a_kernel_that_fills_in_another_way_is_refused_and_nobody_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, complaint: str
) -> None:
    """There is no such kernel here, so what it says is put in its mouth."""
    read_events = fanotify.read_events
    monkeypatch.setattr("erofs_fs.probe._EVENT_SECONDS", 1.0)

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if fault == "does not ask":
        monkeypatch.setattr(fanotify, "watch", lambda *_: None)
    elif fault == "no range":
        without = lambda group, most: [one._replace(end=1 << 62) for one in read_events(group, most)]  # noqa: E731
        monkeypatch.setattr(fanotify, "read_events", without)
    elif fault == "shows zeros":
        monkeypatch.setattr("erofs_fs.probe._read", lambda _: bytes(PAGE))
        monkeypatch.setattr("erofs_fs.probe._read_answered", lambda *_: bytes(PAGE))
    else:
        monkeypatch.setattr(fanotify, "open_group" if fault == "no group" else "watch", refuse)
    with pytest.raises(ErofsMissing, match=complaint):
        probe_events(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not [entry for entry in mount_table() if entry.mountpoint.is_relative_to(tmp_path)]


@pytest.mark.parametrize("whose", ["its own", "another thread's"])
def test_whose_readahead_was_in_vain_reads_what_is_to_be_had(
    store: KeptStore, shown: Shown, whose: str
) -> None:
    store.reader_seconds = 1.0
    store.start()
    program = (
        "import os,sys; from concurrent.futures import ThreadPoolExecutor as Pool; pool=Pool(1);"
        "lost,there=(os.open(path, os.O_RDONLY) for path in sys.argv[2:]);"
        "pool.submit(os.posix_fadvise, lost, 0, 65536, os.POSIX_FADV_WILLNEED).result();"
        "read=pool.submit(os.pread, there, 4096, 0).result if sys.argv[1] == 'its own' else "
        "lambda: os.pread(there, 4096, 0);"
        "sys.stdout.buffer.write(read())"
    )
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown, held=shown.windows("f0"))
        command: list[str | Path] = [sys.executable, "-c", program, whose, top / "f0", top / "f1"]
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
        assert done.stdout == shown.content("f1")[:PAGE]
        assert store.status()["counts"]["refused"] > 0


def test_the_readahead_of_a_mount_is_set_where_it_can_be_told_which_it_is(
    store: KeptStore, shown: Shown
) -> None:
    store.start()
    before = readahead.numbers()
    with store.link() as link:
        store.mount(link, shown)
        (name,) = readahead.numbers() - before
        of_mount = Path("/sys/class/bdi") / name / "read_ahead_kb"
        assert int(of_mount.read_text()) == readahead.KIB
        assert readahead.tune_readahead(before, 512)
        assert int(of_mount.read_text()) == 512
        store.mount(link, store.show(random_tree(2)), "second")
        assert not readahead.tune_readahead(before, 64)
        assert int(of_mount.read_text()) == 512


# The process that answers


def devices_of_mounts() -> set[int]:
    """Device numbers of all mounts of the kernel's EROFS."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ")[0] == KERNEL_TYPE:
            major, _, minor = before.split(" ")[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return found


def test_the_process_that_answers_has_nothing_of_a_lazy_mount(
    store: KeptStore, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its starter has open, and wherever that is: one page fault of it would be the last."""
    first = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        assert top.stat().st_dev in devices_of_mounts()
        inherited = os.open(top / "f0", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        store.kill(first)
        monkeypatch.chdir(top)
        second = store.start(link.held)
        os.close(inherited)
    with store.link() as link:
        Serving(store, link, shown)
        assert Reading(top / "f1", 0, 100).result() == shown.content("f1")[:100]
        at = Path(f"/proc/{second}")
        for name in ("cwd", "root"):
            assert (at / name).readlink() == Path("/")
        lazy = devices_of_mounts()
        for descriptor in (at / "fd").iterdir():
            assert descriptor.stat().st_dev not in lazy, descriptor.readlink()
        mapped = {line.split()[3] for line in (at / "maps").read_text().splitlines()}
        assert not mapped & {f"{os.major(device):02x}:{os.minor(device):02x}" for device in lazy}


def test_a_keeper_does_not_start_from_a_mount_it_may_have_to_fill(store: KeptStore) -> None:
    packages = [
        directory(package.encode(), *(file(path.name.encode(), path.read_bytes())
                                      for path in sorted((CHECKOUT / package).glob("*.py"))))
        for package in ("rafs", "chunk_store", "erofs_fs")
    ]  # fmt: skip
    shown = store.show(tree(*packages))
    pid = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown)
        over, scratch = store.base / "over", store.base / "scratch"
        for needed in (over, scratch, scratch / "upper", scratch / "work"):
            needed.mkdir()
        layers = f"lowerdir={top},upperdir={scratch}/upper,workdir={scratch}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", over], check=True)
        for place in (top, over):
            words = [str(place) if word == str(CHECKOUT) else word for word in store.program.command]
            assert words != store.program.command
            with pytest.raises(KeeperFailed, match="ended with 1 before it served"):
                start_keeper(store.program._replace(command=words), {})
            said = store.program.log.read_text()
            assert f"a keeper cannot run from {place}/erofs_fs/keeper_life.py" in said
    assert store.status()["pid"] == pid


def test_a_keeper_takes_all_descriptors_it_may(store: KeptStore) -> None:
    limiting = ["prlimit", "--nofile=100:700", *store.program.command]
    pid = start_keeper(store.program._replace(command=[str(shutil.which("prlimit")), *limiting[1:]]), {})
    store.pids.add(pid)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (700, 700)


def test_keeper_and_filler_keep_no_mount_of_either_driver_alive(place: Place) -> None:
    """They may live in a mount namespace of their own, with copies of all that was mounted before."""
    reference = place.publish(LARGE)
    served = place.mount(reference, "served", "--driver", "fuse", "--no-background")
    other = place.mount(reference, "other")
    keeper, filler = place.pids()
    os.kill(keeper, signal.SIGKILL)  # the next one is started with all of them in sight
    assert_right(other, b"f1")
    os.kill(filler, signal.SIGKILL)
    third = place.mount(reference, "third")
    assert_right(other, b"f2")
    keeper, filler = place.pids()
    for pid, number in ((filler, signal.SIGSTOP), (keeper, signal.SIGKILL), (filler, signal.SIGKILL)):
        os.kill(pid, number)
    until(lambda: not Path(f"/proc/{filler}").exists())
    place.command("ps")  # a keeper that has inherited nothing
    place.command("umount", served)  # waits for its server's end
    place.command("umount", other)
    until(lambda: len((keeper_status(place.root) or {"mounts": ()})["mounts"]) == 1)
    assert_right(third)


# What could stop it


@contextmanager
def control_group(controller: str) -> Iterator[Path]:
    """A group of our own; *controller* "" is the hierarchy of the new kind."""
    kind, wanted = ("cgroup", controller) if controller else ("cgroup2", "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        found, _, options = after.split(" ", 2)
        if found == kind and (not wanted or wanted in options.split(",")):
            place = Path(before.split(" ")[4]) / f"nopull-test-{os.getpid()}"
            break
    else:
        pytest.skip(f"no hierarchy of control groups with {controller or 'version 2'} is mounted here")
    place.mkdir()
    try:
        yield place
    finally:
        until(lambda: not (place / "cgroup.procs").read_text())
        place.rmdir()


@contextmanager
def frozen(group: Path) -> Iterator[None]:
    """Who is in *group* does not run meanwhile."""
    if (group / "freezer.state").exists():
        how = (group / "freezer.state", "FROZEN", "THAWED")
    else:
        how = (group / "cgroup.freeze", "1", "0")
    how[0].write_text(how[1])
    try:
        yield
    finally:
        how[0].write_text(how[2])


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


# A program that enters a control group and becomes another.
ENTERING = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as members:
    members.write("0")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("controller", ["freezer", ""])
def test_a_keeper_that_was_started_in_a_group_that_is_frozen_goes_on(
    store: KeptStore, shown: Shown, controller: str
) -> None:
    with control_group(controller) as group:
        entering = [sys.executable, "-S", "-c", ENTERING, str(group)]
        program = store.program._replace(command=[*entering, *store.program.command])
        pid = start_keeper(program, {})
        store.pids.add(pid)
        with frozen(group), store.link() as link:
            top = store.mount(link, shown)
            Serving(store, link, shown)
            assert Reading(top / "f0", 0, 100).result() == shown.content("f0")[:100]
            assert str(group) not in groups_of(pid)
        store.kill(pid)


def test_a_keeper_leaves_a_group_with_a_limit_of_memory(store: KeptStore) -> None:
    with control_group("memory") as group:
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
        entering = [sys.executable, "-S", "-c", ENTERING, str(group)]
        pid = start_keeper(store.program._replace(command=[*entering, *store.program.command]), {})
        store.pids.add(pid)
        assert f"/{group.name}" not in groups_of(pid)
        assert not (group / "cgroup.procs").read_text()


@pytest.mark.parametrize("controller", ["freezer", ""])
def test_who_mounts_may_be_frozen_and_all_readers_go_on(place: Place, controller: str) -> None:
    where = place.base / "mountpoint"
    where.mkdir()
    with control_group(controller) as group:
        words = [sys.executable, "-S", "-c", ENTERING, str(group), *COMMAND, "mount", place.publish(LARGE)]
        how = [str(where), "--driver", "erofs", "--no-background", "--root", str(place.root)]
        subprocess.run([*words, *how], check=True, capture_output=True, timeout=60)
        keeper, filler = place.pids()
        with frozen(group):
            assert_right(where, b"f0", b"f4")
        for pid in (keeper, filler):
            assert f"/{group.name}" not in groups_of(pid)
        assert place.pids() == (keeper, filler)


@contextmanager
def own_file_system(base: Path) -> Iterator[Path]:
    """An ext4 that can be frozen without anybody else."""
    for program in ("mkfs.ext4", "fsfreeze", "losetup"):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}")
    image, top = base / "ext4", base / "top"
    top.mkdir()
    with image.open("wb") as opened:
        opened.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, top], check=True, capture_output=True)
    below = top / "below"
    below.mkdir()
    try:
        yield below
    finally:
        until(lambda: subprocess.run(["umount", top], capture_output=True, check=False).returncode == 0)


def thaw(below: Path) -> None:
    subprocess.run(["fsfreeze", "-u", below.parent], check=True, timeout=60)


@pytest.fixture
def freezable(tmp_path: Path) -> Iterator[KeptStore]:
    """A store on a file system of its own, whose readers wait 2 s."""
    with own_file_system(tmp_path) as top:
        probe_events(top)
        made = KeptStore(top, reader_seconds=2.0)
        try:
            yield made
        finally:
            made.clear()
            made.directory.close()


def test_on_a_frozen_file_system_readers_get_an_error_in_time_and_bytes_when_it_is_thawed(
    freezable: KeptStore,
) -> None:
    shown = freezable.show(random_tree(4))
    freezable.start()
    with freezable.link() as link:
        top = freezable.mount(link, shown)
        other = freezable.mount(link, shown, "other")
        serving = Serving(freezable, link, shown, held=shown.right)
        early = Reading(top / "f0", 0, 100)
        until(lambda: freezable.status()["waiting"] == 1)
        subprocess.run(["fsfreeze", "-f", freezable.base.parent], check=True, timeout=60)
        try:
            serving.held.clear()
            filling = threading.Thread(target=serving.serve, args=(shown.windows("f0")[0],))
            filling.start()
            assert early.result() == errno.EIO
            # Only the filler is stuck. Not the keeper: whatever it may have to do, it writes nothing.
            detach(other, lazy=False)
            until(lambda: list(freezable.status()["mounts"]) == ["mountpoint"])
            assert Reading(top / "f1", 0, 100).result() == errno.EIO
            assert freezable.status()["waiting"] == 0
            assert filling.is_alive()
        finally:
            thaw(freezable.base)
        filling.join(30)
        assert not filling.is_alive()
        time.sleep(STILL_FAILED_SECONDS)
        for name in ("f0", "f1", "f2"):
            assert content_of(top / name) == shown.content(name)


WRITING = """
import mmap, os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
mapped = mmap.mmap(source, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
os.write(1, b".")
try:
    os.write(target, memoryview(mapped)[:4096])  # the kernel touches the page while it writes
except OSError as error:
    os.write(1, b"%d" % error.errno)
"""


def test_a_freeze_that_waits_for_a_writer_who_waits_for_us_ends_in_time(freezable: KeptStore) -> None:
    """The writer may write to the frozen file system until it is done; the filler comes too late for that."""
    shown = freezable.show(random_tree(4))
    freezable.start()
    with freezable.link() as link:
        top = freezable.mount(link, shown)
        serving = Serving(freezable, link, shown, held=shown.right)
        words = [sys.executable, "-S", "-c", WRITING, str(top / "f0"), str(freezable.base / "target")]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as writing:
            assert writing.stdout is not None and writing.stdout.read(1) == b"."
            until(lambda: freezable.status()["waiting"] == 1)
            with subprocess.Popen(["fsfreeze", "-f", freezable.base.parent]) as freezing:
                try:
                    time.sleep(0.3)
                    assert freezing.poll() is None
                    filling = threading.Thread(target=serving.serve, args=(shown.windows("f0")[0],))
                    filling.start()
                    assert writing.stdout.read() == b"%d" % errno.EFAULT
                    assert freezing.wait(30) == 0
                    assert filling.is_alive()
                finally:
                    link.lost(shown.windows("f0")[0])  # whatever has failed, nobody is to be stuck for ever
                    freezing.wait(30)
                    thaw(freezable.base)
        filling.join(30)
        time.sleep(STILL_FAILED_SECONDS)
        serving.held.clear()
        assert content_of(top / "f0") == shown.content("f0")


def test_a_real_filler_on_a_frozen_file_system_goes_on_when_it_is_thawed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOPULL_READER_SECONDS", "2")
    with own_file_system(tmp_path) as top, DebianRegistry() as registry:
        place = Place(top, registry)
        try:
            where = place.mount(place.publish(LARGE))
            assert_right(where, b"f0")
            subprocess.run(["fsfreeze", "-f", top.parent], check=True, timeout=60)
            try:
                found = Reading(where / "f3", 0, 100).result()
                assert found == errno.EIO
                assert keeper_status(place.root) is not None
            finally:
                thaw(top)
            time.sleep(1)
            assert_right(where)
        finally:
            place.clear()
            until(lambda: keeper_status(place.root) is None)


def test_when_the_stores_file_system_turns_read_only_mounts_are_listed_and_can_be_taken_away(
    tmp_path: Path,
) -> None:
    with own_file_system(tmp_path) as top, DebianRegistry() as registry:
        place = Place(top, registry)
        try:
            where = place.mount(place.publish(LARGE))
            assert_right(where, b"f0")
            keeper, _ = place.pids()
            subprocess.run(["mount", "-o", "remount,abort", top.parent], check=True)
            (told,) = json.loads(place.command("ps", "--json").stdout)
            assert (told["mountpoint"], told["state"]) == (str(where), "mounted")
            assert_right(where, b"f0")
            assert place.pids()[0] == keeper
            place.command("umount", where)
            assert where not in {entry.mountpoint for entry in mount_table()}
        finally:
            place.clear()
            until(lambda: keeper_status(place.root) is None)
