"""Many mounts, one server: each shows its own image and comes and goes alone; the last ends the server."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from erofs_fs.pids import await_end
from launch import mounts
from launch.control import ask
from launch.mounts import MountRecord, State
from tests.launch.published import publish
from tests.support.command import COMMAND, clear, nopull
from tests.support.debian_registry import DebianRegistry
from tests.support.images import image_of
from tests.support.trees import directory, file, tree
from tests.system.kept_store import until

pytestmark = pytest.mark.system

COMMON = random.Random(5).randbytes(700_000)


@dataclass
class Place:
    """A state root and places to mount on; everything is taken away by `clear`."""

    base: Path

    def __post_init__(self) -> None:
        self.root = self.base / "root"

    def publish(self, name: str) -> str:
        """An image with a file that only it has, and one that all have."""
        root = tree(directory(b"d", file(b"own", name.encode() * 9000), file(b"common", COMMON)))
        return publish(image_of(root), f"oci:{self.base / 'layout'}:{name}", self.base).reference

    def nopull(self, *words: str | Path, code: int = 0) -> str:
        done = nopull(*words, "--root", self.root)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def mount(self, name: str, *options: str) -> MountRecord:
        where = self.base / f"at-{name}"
        where.mkdir(exist_ok=True)
        image = f"oci:{self.base / 'layout'}:{name}"
        said = self.nopull("mount", image, str(where), "--shared", "--json", *options)
        return mounts.from_json(json.loads(said))

    def right(self, name: str) -> bool:
        where = self.base / f"at-{name}" / "d"
        return (where / "own").read_bytes() == name.encode() * 9000 and (
            (where / "common").read_bytes() == COMMON
        )

    def clear(self) -> None:
        clear(self.base, self.root)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    try:
        for name in ("one", "two", "three"):
            made.publish(name)
        yield made
    finally:
        made.clear()


def test_mounts_share_a_server_and_each_shows_its_own_image(place: Place) -> None:
    records = [place.mount(name) for name in ("one", "two", "three")]
    assert len({record.server for record in records}) == 1
    assert len({record.device for record in records}) == 3
    assert all(place.right(name) for name in ("one", "two", "three"))
    rows = json.loads(place.nopull("ps", "--json"))
    assert [(row["id"], row["state"]) for row in rows] == [(one.id, "mounted") for one in records]
    for record in records:
        status = ask(record.control)
        assert (status["id"], status["asked"]["init"]) == (record.id, 1)


def test_unmounting_one_leaves_the_others_and_the_last_ends_the_server(place: Place) -> None:
    one, two = place.mount("one"), place.mount("two")
    place.nopull("umount", one.mountpoint)
    assert [record.id for record in mounts.records(place.root)] == [two.id]
    assert place.right("two") and list(one.mountpoint.iterdir()) == []
    again = place.mount("one")
    assert again.server == two.server and place.right("one")
    with (two.mountpoint / "d" / "common").open("rb") as opened:
        assert "in use" in place.nopull("umount", two.mountpoint, code=7)
        place.nopull("umount", "--lazy", two.mountpoint)
        assert mounts.state_of(two) is State.DETACHED
        assert opened.read() == COMMON
    place.nopull("umount", again.mountpoint)
    assert await_end(again.server, 15)
    assert mounts.records(place.root) == []
    left = {path.name for path in (place.root / "run").iterdir()}
    assert left == {"shared.lock"} and list((place.root / "log").iterdir()) == []


def test_commands_at_once_start_one_server(place: Place) -> None:
    running = []
    for name in ("one", "two", "three"):
        where = place.base / f"at-{name}"
        where.mkdir()
        words = ["mount", f"oci:{place.base / 'layout'}:{name}", str(where), "--shared"]
        whole = [*COMMAND, *words, "--root", str(place.root)]
        running.append(subprocess.Popen(whole, stdout=subprocess.DEVNULL))
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len({record.server for record in mounts.records(place.root)}) == 1
    assert all(place.right(name) for name in ("one", "two", "three"))


def test_an_error_arrives_as_what_it_is_and_costs_the_other_mounts_nothing(place: Place) -> None:
    place.mount("one")
    (place.base / "there").mkdir()
    missing = ("mount", f"oci:{place.base / 'layout'}:none", place.base / "there", "--shared")
    assert "none" in place.nopull(*missing, code=5)
    assert "unmount it first" in place.nopull(
        "mount", f"oci:{place.base / 'layout'}:two", place.base / "at-one", "--shared", code=7
    )
    assert place.right("one")
    assert len(mounts.records(place.root)) == 1
    assert {path.name for path in (place.root / "run").glob("*.sock")} == {
        "shared.sock",
        mounts.records(place.root)[0].control.name,
    }


def test_a_killed_server_is_repaired_mount_by_mount(place: Place) -> None:
    one, two = place.mount("one"), place.mount("two")
    os.kill(one.server, signal.SIGKILL)
    assert await_end(one.server, 15)
    for record in (one, two):
        assert mounts.state_of(record) is State.DEAD
        with pytest.raises(OSError, match="not connected") as refused:
            (record.mountpoint / "d" / "own").read_bytes()
        assert refused.value.errno == errno.ENOTCONN
    assert place.mount("one").server != one.server and place.right("one")
    states = [row["state"] for row in json.loads(place.nopull("ps", "--json"))]
    assert sorted(states) == ["dead", "gone", "mounted"]
    assert place.mount("two").server == mounts.records(place.root)[0].server and place.right("two")


def test_a_server_told_to_end_takes_its_mounts_along(place: Place) -> None:
    one, two = place.mount("one"), place.mount("two", "--isolate")
    assert place.right("one") and place.right("two")
    opened = os.open(one.mountpoint / "d" / "own", os.O_RDONLY)
    os.kill(one.server, signal.SIGTERM)
    assert await_end(one.server, 15)
    os.close(opened)
    for record in (one, two):
        assert list(record.mountpoint.iterdir()) == []
    assert mounts.records(place.root) == []


def test_another_mount_namespace_is_refused(place: Place) -> None:
    place.mount("one")
    (place.base / "there").mkdir()
    words = ["mount", f"oci:{place.base / 'layout'}:two", str(place.base / "there"), "--shared"]
    done = subprocess.run(
        ["unshare", "-m", *COMMAND, *words, "--root", str(place.root)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 7 and "another mount namespace" in done.stderr
    assert list((place.base / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, -3)],
)
def test_a_mount_that_is_given_up_while_it_is_made_is_taken_away(
    place: Place, number: int, code: int
) -> None:
    record = place.mount("one")
    where = place.base / "at-two"
    where.mkdir()
    words = ["mount", f"oci:{place.base / 'layout'}:two", str(where), "--shared", "--root", str(place.root)]
    os.kill(record.server, signal.SIGSTOP)
    # Below what is removed afterwards: SIGQUIT may leave a core file.
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL, cwd=place.base) as starting:
        # It may be interrupted at any moment, but now it waits for the server.
        until(lambda: has_socket(starting.pid))
        starting.send_signal(number)
        os.kill(record.server, signal.SIGCONT)
        assert starting.wait(15) == code
    deadline = time.monotonic() + 15
    while mounts.find(place.root, where) is not None or list(where.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert place.right("one")


def test_a_mount_that_is_given_up_while_its_image_is_opened_leaves_its_place_at_once(place: Place) -> None:
    record = place.mount("one")
    where = place.base / "at-two"
    where.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the question and says nothing
        image = f"docker://127.0.0.1:{silent.getsockname()[1]}/app:v1"
        words = ["mount", image, str(where), "--shared", "--root", str(place.root)]
        with subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL) as starting:
            until(lambda: is_claimed(where))
            starting.send_signal(signal.SIGTERM)
            assert starting.wait(15) == 143
        assert not is_claimed(where)
        assert place.mount("two").server == record.server and place.right("two")


@pytest.mark.parametrize("kind", ["--shared", "--driver=fuse"])
def test_a_mount_whose_command_is_killed_while_its_image_is_opened_leaves_its_place(
    place: Place, kind: str
) -> None:
    where = place.base / "at-two"
    where.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        image = f"docker://127.0.0.1:{silent.getsockname()[1]}/app:v1"
        with subprocess.Popen([*COMMAND, "mount", image, where, kind, "--root", place.root]) as starting:
            until(lambda: is_claimed(where))
            starting.kill()
        until(lambda: not is_claimed(where), 5)
        place.mount("two")
        assert place.right("two")


def test_a_mount_whose_command_is_killed_while_it_is_made_is_taken_away(place: Place) -> None:
    where = place.base / "at-two"
    where.mkdir()
    with DebianRegistry() as registry:
        name = f"docker://{registry.host}/app:v1"
        image = publish(image_of(tree(file(b"f", b"x"))), name, place.base).reference
        os.kill(registry.pid, signal.SIGSTOP)
        words = ["mount", image, str(where), "--shared", "--root", str(place.root)]
        with subprocess.Popen([*COMMAND, *words]) as starting:
            until(lambda: is_claimed(where))
            starting.kill()
        os.kill(registry.pid, signal.SIGCONT)
        until(lambda: not is_claimed(where))  # it is made by now, or given up
        until(lambda: mounts.find(place.root, where) is None and list(where.iterdir()) == [])


def is_claimed(where: Path) -> bool:
    directory = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(directory)
    return False


def has_socket(pid: int) -> bool:
    with suppress(OSError):  # one that is closed just now
        return any("socket:" in str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False
