"""`nopull mount --driver erofs` of what is still absent: the whole way, with real processes, which die."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from chunk_store.keeper_client import KEEPER
from erofs_fs.probe import probe_events
from launch import mounts
from launch.kernel_mounts.keeper_start import end_keeper, keeper_status
from launch.mountpoint import detach, mount_at
from launch.mounts import MountRecord, State
from tests.launch.published import publish
from tests.support.command import CHECKOUT, COMMAND, able, clear, nopull
from tests.support.debian_registry import DebianRegistry
from tests.support.images import Image, image_of
from tests.support.trees import Entry, directory, file, tree
from tests.system.kept_store import content_of, until
from tests.system.test_kernel_mount import EVERYTHING, assert_shows

pytestmark = pytest.mark.system

MIB = 1 << 20
RANDOM = random.Random(11)
FILES = {b"f%d" % number: RANDOM.randbytes(3 * MIB) for number in range(6)}
LARGE = tree(
    *(file(name, content) for name, content in FILES.items()), directory(b"d", file(b"small", b"little"))
)


@dataclass
class Place:
    """A state root, a registry, and mountpoints below one directory."""

    base: Path
    registry: DebianRegistry

    @property
    def root(self) -> Path:
        return self.base / "root"

    def publish(self, source: Entry | Image, tag: str = "v1") -> str:
        image = source
        if isinstance(image, Entry):
            image = image_of(image, chunk_size=256 << 10, batch_size=MIB)
        return publish(image, f"docker://{self.registry.host}/app:{tag}", self.base).reference

    def command(self, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = nopull(*words, "--root", self.root)
        assert done.returncode == code, done
        return done

    def mount(self, reference: str, name: str = "mountpoint", *options: str) -> Path:
        where = self.base / name
        where.mkdir(exist_ok=True)
        self.command("mount", reference, where, *(options or ("--driver", "erofs", "--no-background")))
        return where

    def record(self, where: Path) -> MountRecord:
        found = mounts.find(self.root, where)
        assert found is not None
        return found

    def explained(self, where: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("explain", where, "--json").stdout)
        return found

    def pids(self) -> tuple[int, int]:
        """Of the keeper and the filler."""
        until(lambda: (keeper_status(self.root) or {}).get("filler") is not None)
        status = keeper_status(self.root)
        assert status is not None
        return status["pid"], status["filler"]

    def blob_requests(self) -> int:
        """How many the registry has had, once it has noted the last: it does so after its answer."""
        noted, before = self._noted(), -1
        while noted != before:
            time.sleep(0.2)
            noted, before = self._noted(), noted
        return noted

    def _noted(self) -> int:
        return sum(one.is_blob for one in self.registry.accesses())

    def clear(self) -> None:
        clear(self.base, self.root)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    able(tmp_path, probe_events)
    with DebianRegistry() as registry:
        made = Place(tmp_path, registry)
        try:
            yield made
        finally:
            made.clear()


def assert_right(where: Path, *names: bytes) -> None:
    """Every byte of these files, default: all."""
    for name in names or FILES:
        assert content_of(where / os.fsdecode(name)) == FILES[name], name


def test_an_absent_image_is_shown_at_once_and_filled_as_it_is_read(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    record = place.record(where)
    assert (record.driver, record.driver_reason) == ("erofs", "asked for")
    assert mounts.state_of(record) is State.MOUNTED
    before = place.explained(where)
    progress = before["progress"]
    assert progress["bytes_present"] < MIB
    assert [one["role"] for one in before["pids"]] == ["filler", "keeper"]
    assert content_of(where / "d" / "small") == b"little"
    assert_right(where, b"f3")
    after = place.explained(where)["progress"]
    assert 3 * MIB <= after["bytes_present"] < 8 * MIB
    assert after["demand"]["windows"] >= 3 and after["background"]["windows"] == 0
    assert_right(where)
    done = place.explained(where)["progress"]
    assert done["complete"]
    text = place.command("explain", where).stdout
    assert re.search(r"^kernel   asked \d+ times, of which \d+ waited, .* 0 windows watched", text, re.M)


# nopull, which is sent a signal when it has just called a function: module, name, signal, arguments.
SIGNALLED = """
import importlib, os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run where it is ignored
module, name, number = importlib.import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])
original = getattr(module, name)
def signalled(*words, **more):
    found = original(*words, **more)
    os.kill(os.getpid(), number)
    return found
setattr(module, name, signalled)
import nopull
sys.exit(nopull.main(sys.argv[4:]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize(
    ("module", "name"), [("launch.kernel_mounts.kernel_mount", "attach"), ("launch.mounts", "write_record")]
)
@pytest.mark.parametrize("foreground", [False, True])
def test_a_command_that_is_ended_when_the_mount_has_just_appeared_leaves_none(
    place: Place, number: int, code: int, module: str, name: str, foreground: bool
) -> None:
    where = place.base / "mountpoint"
    where.mkdir()
    words = ["mount", place.publish(LARGE), str(where), "--root", str(place.root), "--driver", "erofs"]
    words += ["--no-background", *(["--foreground"] if foreground else [])]
    program = [sys.executable, "-c", SIGNALLED, module, name, str(int(number))]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == (0 if foreground else code), done
    assert mount_at(where) is None
    assert mounts.records(place.root) == []
    until(lambda: not (keeper_status(place.root) or {}).get("mounts"))


def test_a_mount_whose_record_cannot_be_written_does_not_stay(place: Place) -> None:
    where = place.base / "mountpoint"
    where.mkdir()
    (place.root / "mounts").parent.mkdir(parents=True, exist_ok=True)
    (place.root / "mounts").write_text("in the way")
    done = place.command(
        "mount", place.publish(LARGE), where, "--driver", "erofs", "--no-background", code=1
    )
    assert "mounts" in done.stderr
    assert mount_at(where) is None


def test_auto_takes_the_kernel_and_says_why(place: Place) -> None:
    where = place.mount(place.publish(LARGE), "mountpoint", "--driver", "auto")
    assert place.record(where).driver == "erofs"
    assert "erofs: the kernel does all that is relied on" in place.command("explain", where).stdout
    assert_right(where)


def test_auto_takes_fuse_where_the_kernel_lacks_something_and_says_what(
    place: Place, tmp_path: Path
) -> None:
    memory = Path("/dev/shm") / f"nopull-{os.getpid()}"
    memory.mkdir()
    try:
        where = tmp_path / "mountpoint"
        where.mkdir()
        reference = place.publish(LARGE)
        words = ["mount", reference, str(where), "--root", str(memory), "--no-background"]
        subprocess.run([*COMMAND, *words], check=True, capture_output=True, timeout=60)
        words = ["explain", str(where), "--root", str(memory)]
        said = subprocess.run([*COMMAND, *words], check=True, capture_output=True, text=True).stdout
        assert re.search(r"^driver   fuse: .*no pre-content events", said, re.MULTILINE), said
        assert_right(where, b"f1")
        subprocess.run([*COMMAND, "umount", str(where), "--root", str(memory)], check=True, timeout=60)
    finally:
        for path in sorted(memory.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        memory.rmdir()


def test_auto_takes_fuse_where_a_keeper_may_have_too_few_descriptors(place: Place, tmp_path: Path) -> None:
    where = tmp_path / "mountpoint"
    where.mkdir()
    words = ["mount", place.publish(LARGE), str(where), "--root", str(place.root), "--no-background"]
    limited = ["prlimit", "--nofile=100:100", *COMMAND]
    done = subprocess.run(
        [*limited, *words, "--driver", "erofs"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "a keeper needs 256 descriptors" in done.stderr
    subprocess.run([*limited, *words], check=True, capture_output=True, timeout=60)
    said = place.command("explain", where).stdout
    assert re.search(r"^driver   fuse: a keeper needs 256 descriptors, .* may have 100", said, re.MULTILINE)
    assert_right(where, b"f1")


def test_every_kind_of_file_is_shown_before_its_data_is_here(place: Place) -> None:
    where = place.mount(place.publish(image_of(EVERYTHING)))
    assert_shows(bytes(where), EVERYTHING)


def test_the_background_completes_the_image_and_everybody_leaves(place: Place) -> None:
    where = place.mount(place.publish(LARGE), "mountpoint", "--driver", "erofs")
    until(lambda: (keeper_status(place.root) or {}).get("watched") == 0)
    until(lambda: (keeper_status(place.root) or {}).get("filler", 1) is None)
    requests = place.blob_requests()
    place.registry.stop()
    assert_right(where)
    status = keeper_status(place.root)
    assert status is not None and status["counts"]["waited"] == 0
    assert requests > 0
    # What was counted is known although nobody is there who has counted.
    progress = place.explained(where)["progress"]
    assert progress["background"]["windows"] > 10
    place.command("umount", where)
    until(lambda: keeper_status(place.root) is None)


def test_the_filler_is_killed_while_somebody_waits_and_nobody_notices(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    os.kill(filler, signal.SIGSTOP)
    reading = threading.Thread(target=assert_right, args=(where,))
    reading.start()
    until(lambda: (keeper_status(place.root) or {}).get("waiting", 0) > 0)
    os.kill(filler, signal.SIGKILL)
    reading.join(60)
    assert not reading.is_alive()
    status = keeper_status(place.root)
    assert status is not None
    assert (status["pid"], status["counts"]["refused"]) == (keeper, 0)
    assert_right(where)


def test_the_keeper_is_killed_while_somebody_waits_and_nobody_notices(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    os.kill(filler, signal.SIGSTOP)
    reading = threading.Thread(target=assert_right, args=(where,))
    reading.start()
    until(lambda: (keeper_status(place.root) or {}).get("waiting", 0) > 0)
    os.kill(keeper, signal.SIGKILL)
    time.sleep(0.1)
    os.kill(filler, signal.SIGCONT)
    reading.join(60)
    assert not reading.is_alive()
    assert_right(where)
    status = keeper_status(place.root)
    assert status is not None and status["pid"] != keeper and status["counts"]["refused"] == 0


def test_a_filler_for_whom_there_is_nothing_to_do_ends(place: Place) -> None:
    place.root.mkdir()
    filler = [sys.executable, "-m", "launch.kernel_mounts.filler_life", str(place.root), str(place.root)]
    assert subprocess.run(filler, cwd=CHECKOUT, timeout=20, check=False).returncode == 0
    until(lambda: keeper_status(place.root) is None)


def test_who_fills_hears_that_a_mount_went_while_there_was_no_keeper(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    os.kill(filler, signal.SIGSTOP)
    try:
        os.kill(keeper, signal.SIGKILL)
        until(lambda: keeper_status(place.root) is None)
        detach(where, lazy=False)
    finally:
        os.kill(filler, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{filler}").exists())
    until(lambda: keeper_status(place.root) is None)


def test_after_everybody_was_killed_nopull_takes_the_mounts_up_again(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    assert_right(where, b"f0")
    keeper, filler = place.pids()
    os.kill(filler, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    os.kill(filler, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{filler}").exists())
    absent = subprocess.run(["cat", where / "f4"], capture_output=True, check=False, timeout=30)
    assert absent.returncode != 0 and b"Input/output error" in absent.stderr
    assert FILES[b"f4"].startswith(absent.stdout)
    assert_right(where, b"f0")
    said = place.command("ps").stderr
    assert "had no keeper any more; they have one again" in said
    assert_right(where)
    assert mounts.state_of(place.record(where)) is State.MOUNTED


def test_mounting_another_image_takes_up_what_has_lost_its_keeper(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    os.kill(filler, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    os.kill(filler, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{filler}").exists())
    other = place.mount(place.publish(tree(file(b"f", b"other")), "v2"), "other")
    assert content_of(other / "f") == b"other"
    assert_right(where)


def test_both_drivers_miss_the_same_windows_at_the_same_time(place: Place) -> None:
    reference = place.publish(LARGE)
    kernel = place.mount(reference, "kernel")
    fuse = place.mount(reference, "fuse", "--driver", "fuse", "--no-background")
    failed: list[BaseException] = []

    def read(where: Path, names: list[bytes]) -> None:
        try:
            assert_right(where, *names)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    for names in ([b"f0", b"f1"], [b"f3", b"f2"]):
        readers = [
            threading.Thread(target=read, args=(where, names))
            for where in (kernel, fuse, kernel, fuse)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
    assert failed == []
    # What one of them has fetched, the other finds: each way round.
    before = place.blob_requests()
    assert_right(fuse, b"f4")
    fetched = place.blob_requests()
    assert_right(kernel, b"f4")
    assert place.blob_requests() == fetched > before
    assert_right(kernel, b"f5")
    fetched = place.blob_requests()
    assert_right(fuse, b"f5")
    assert place.blob_requests() == fetched
    status = keeper_status(place.root)
    assert status is not None and status["counts"]["refused"] == 0


def test_what_the_registry_serves_wrong_is_an_error_with_the_files_name_and_right_when_it_is(
    place: Place,
) -> None:
    image = image_of(tree(file(b"wrong", FILES[b"f0"])), chunk_size=256 << 10, batch_size=MIB)
    layout = f"oci:{place.base / 'layout'}:v1"
    reference = publish(image, layout, place.base).reference
    (blob,) = image.objects
    stored = place.base / "layout" / "blobs" / "sha256" / blob
    right = stored.read_bytes()
    stored.chmod(0o600)
    stored.write_bytes(right[: len(right) // 2] + bytes(len(right) - len(right) // 2))
    where = place.mount(reference)
    read = subprocess.run(["cat", where / "wrong"], capture_output=True, check=False, timeout=60)
    assert read.returncode != 0 and b"Input/output error" in read.stderr
    assert FILES[b"f0"].startswith(read.stdout)
    log = place.record(where).log
    until(lambda: "read /wrong: Chunk" in log.read_text())
    stored.write_bytes(right)
    time.sleep(0.3)
    assert content_of(where / "wrong") == FILES[b"f0"]


def test_a_trace_names_files_in_the_order_in_which_they_were_missed(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    for name in (b"f4", b"f1", b"f2"):
        assert_right(where, name)
    told = place.command("explain", "--trace", where)
    assert told.stdout.split() == ["/f4", "/f1", "/f2"]
    assert "does not tell what was local already" in told.stderr
    assert_right(where)
    until(lambda: (keeper_status(place.root) or {}).get("filler", 1) is None)
    assert place.command("explain", "--trace", where).stdout.split()[:3] == ["/f4", "/f1", "/f2"]


def test_many_mounts_have_one_keeper_and_one_filler(place: Place) -> None:
    references = [
        place.publish(tree(file(b"own", b"%d" % number * 5000), file(b"shared", FILES[b"f0"])), f"v{number}")
        for number in range(5)
    ]
    tops = [place.mount(reference, f"m{number}") for number, reference in enumerate(references)]
    status = keeper_status(place.root)
    assert status is not None and len(status["mounts"]) == 5
    for number, where in enumerate(tops):
        assert content_of(where / "own") == b"%d" % number * 5000
        assert content_of(where / "shared") == FILES[b"f0"]
    status = keeper_status(place.root)
    assert status is not None and status["fillers_started"] == 0
    for where in tops:
        place.command("umount", where)
    assert mounts.records(place.root) == []
    until(lambda: keeper_status(place.root) is None)


def test_a_pulled_image_is_localised_while_its_tables_are_read(place: Place) -> None:
    reference = place.publish(LARGE)
    place.command("pull", reference)
    where = place.mount(reference, "mountpoint", "--driver", "erofs")
    assert_right(where)


def test_a_second_mount_of_an_image_is_filled_like_the_first(place: Place) -> None:
    reference = place.publish(LARGE)
    first = place.mount(reference)
    assert content_of(first / "f0") == FILES[b"f0"]
    place.command("umount", first)
    until(lambda: keeper_status(place.root) is None)
    # Its localised form is kept, so it is mounted before its tables are read; nothing is missed for that.
    again = place.mount(reference, "again")
    assert content_of(again / "f1") == FILES[b"f1"]
    assert content_of(again / "f0") == FILES[b"f0"]
    other = place.mount(reference, "other", "--driver", "erofs")  # in the background, too
    until(lambda: (keeper_status(place.root) or {}).get("watched") == 0)
    assert_shows(os.fsencode(other), LARGE)


def test_who_fills_does_not_stay_for_an_image_that_was_refused(place: Place) -> None:
    held = place.mount(place.publish(LARGE), "held")
    sound = image_of(tree(file(b"bad", FILES[b"f3"][::-1])), chunk_size=256 << 10, batch_size=MIB)
    bootstrap = bytearray(sound.bootstrap)
    bootstrap[bootstrap.rindex(b"bad")] = 0
    reference = place.publish(replace(sound, bootstrap=bytes(bootstrap)), "refused")
    where = place.base / "refused"
    where.mkdir()
    refused = place.command("mount", "--driver", "erofs", "--no-background", reference, where, code=6)
    assert "breaks its format, so it is not mounted" in refused.stderr
    assert content_of(held / "f2") == FILES[b"f2"]
    place.command("umount", held)
    until(lambda: keeper_status(place.root) is None)


def test_a_foreground_mount_stays_until_it_is_told_to_end(place: Place) -> None:
    where = place.base / "mountpoint"
    where.mkdir()
    words = [*COMMAND, "mount", place.publish(LARGE), str(where), "--driver", "erofs", "--foreground"]
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [*words, "--root", str(place.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as staying:
            assert staying.stdout is not None
            assert staying.stdout.readline().endswith("(erofs)\n")
            assert_right(where, b"f2")
            staying.send_signal(number)
            assert staying.wait(20) == 0
        assert mount_at(where) is None
        assert mounts.records(place.root) == []


def test_a_mount_in_a_namespace_of_its_own_is_filled_and_forgotten_with_it(place: Place) -> None:
    where = place.base / "mountpoint"
    where.mkdir()
    mount = " ".join([*COMMAND, "mount", place.publish(LARGE), str(where), "--root", str(place.root),
                      "--driver", "erofs", "--no-background"])  # fmt: skip
    inside = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", f"{mount} >/dev/null && cat {where}/f3"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert inside.stdout == FILES[b"f3"]
    assert mount_at(where) is None
    until(lambda: keeper_status(place.root) is None)


def test_a_mount_that_is_shown_elsewhere_as_well_is_detached_until_it_is_not(place: Place) -> None:
    where, elsewhere = place.mount(place.publish(LARGE)), place.base / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "--bind", where, elsewhere], check=True)
    assert f"still mounted on {elsewhere}" in place.command("umount", where).stdout
    assert_right(elsewhere)
    (row,) = json.loads(place.command("ps", "--json").stdout)
    assert (row["mountpoint"], row["state"]) == (str(where), "detached")
    subprocess.run(["umount", elsewhere], check=True)
    until(lambda: json.loads(place.command("ps", "--json").stdout) == [])


def test_state_of_an_earlier_boot_is_cleaned_away(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    assert end_keeper(place.root)
    detach(where, lazy=False)
    held = place.root / KEEPER / "mounts"
    assert len(list(held.iterdir())) == 2  # with its image: nobody was there to see it go
    listed = place.command("ps").stdout
    assert "gone" in listed
    assert list(held.iterdir()) == [] and mounts.records(place.root) == []
    assert keeper_status(place.root) is None


def test_a_dead_registry_is_an_error_within_the_limit_and_a_line_that_says_why(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOPULL_READER_SECONDS", "4")
    where = place.mount(place.publish(LARGE))
    assert_right(where, b"f0")
    place.registry.stop()
    began = time.monotonic()
    read = subprocess.run(["cat", where / "f5"], capture_output=True, check=False, timeout=60)
    assert b"Input/output error" in read.stderr
    assert time.monotonic() - began < 8
    assert_right(where, b"f0")
    trouble = place.explained(where)["progress"]["trouble"]
    assert place.registry.host in trouble and "connection refused" in trouble
    log = place.record(where).log
    until(lambda: "read /f5: " in log.read_text())
    failed = [line for line in log.read_text().splitlines() if "read /f5: " in line]
    assert all("no answer within 4 s: cannot reach registry" in line for line in failed)
    assert all(f"{place.registry.host} to read bytes " in line for line in failed)
    assert all("connection refused" in line and re.search("window [0-9]+ of blob ", line) for line in failed)
    assert "nobody could fill it" not in log.read_text()
