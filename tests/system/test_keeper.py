"""The keeper: readers of absent windows wait, go on with right bytes or an error, and survive every death."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from chunk_store.doorway import Doorway
from chunk_store.keeper_client import KEEPER, SOCKET, ask_keeper
from erofs_fs import handover
from erofs_fs.errors import KeeperFailed, PostTaken
from erofs_fs.holds import forget_hold
from erofs_fs.keeper_program import start_keeper
from launch.kernel_mounts.keeper_start import keeper_status
from launch.mountpoint import detach
from tests.system.kept_store import (
    KIB,
    PAGE,
    KeptStore,
    Reading,
    Serving,
    Shown,
    content_of,
    random_tree,
    until,
)

pytestmark = pytest.mark.system


@pytest.mark.parametrize("how", ["pread", "mmap", "sendfile"])
def test_a_reader_of_absent_data_waits_and_gets_it(store: KeptStore, shown: Shown, how: str) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown, held=shown.windows("f0"))
        reading = Reading(top / "f0", 10_000, 500_000, how)
        assert reading.waits
        until(lambda: bool(serving.needed))
        for window_id in shown.windows("f0"):
            serving.held.discard(window_id)
            serving.serve(window_id)
        assert reading.result() == shown.content("f0")[10_000:510_000]
        assert store.status()["counts"]["refused"] == 0


def test_what_is_all_there_is_watched_by_nobody_and_asked_for_never(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown)
        for entry in shown.root.children:
            assert content_of(top / os.fsdecode(entry.name)) == entry.content
        status = store.status()
        assert (status["watched"], status["waiting"]) == (0, 0)
        events = status["counts"]["events"]
        with (top / "f1").open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert opened.read() == shown.content("f1")
        assert store.status()["counts"]["events"] == events
    # Nobody is needed.
    store.kill(store.status()["pid"])
    with (top / "f2").open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert opened.read() == shown.content("f2")


def test_a_read_inside_a_verified_prefix_asks_no_filler(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        window_id = shown.windows("f0")[0]
        store.fill(shown, window_id, 16 * PAGE)
        link.have(window_id, 16 * PAGE)
        until(lambda: store.status()["windows"] > 0)
        for page in (0, 7, 15):
            reading = Reading(top / "f0", page * PAGE, 100)
            assert reading.result() == shown.content("f0")[page * PAGE : page * PAGE + 100]
        counts = store.status()["counts"]
        assert counts["at_once"] >= 3
        assert counts["waited"] == 0


def test_readers_of_one_window_wait_for_one_fill(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        tops = [store.mount(link, shown, f"mount{number}") for number in range(3)]
        window_id = shown.windows("f0")[0]
        serving = Serving(store, link, shown, held=[window_id])
        readings = [Reading(top / "f0", page * PAGE, 100) for top in tops for page in (0, 9)]
        until(lambda: store.status()["waiting"] == len(readings))
        serving.serve(window_id)
        for number, reading in enumerate(readings):
            at = (0, 9)[number % 2] * PAGE
            assert reading.result() == shown.content("f0")[at : at + 100]


def test_what_cannot_be_filled_is_an_error_and_right_the_next_time(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        window_id = shown.windows("f0")[0]
        serving = Serving(store, link, shown, held=[window_id])
        reading = Reading(top / "f0", 0, 100)
        until(lambda: bool(serving.needed))
        link.lost(window_id)
        assert reading.result() == errno.EIO
        time.sleep(0.3)
        serving.held.clear()
        assert Reading(top / "f0", 0, 100).result() == shown.content("f0")[:100]


def test_a_reader_waits_for_the_limit_once_and_no_longer(store: KeptStore, shown: Shown) -> None:
    store.reader_seconds = 1.0
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown, held=shown.right)
        began = time.monotonic()
        # The kernel asks for its readahead, then for one page of it.
        reading = Reading(top / "f0", 0, 200_000)
        assert reading.result() == errno.EIO
        assert 0.9 < time.monotonic() - began < 1.9
        assert any("nobody could fill it" in line for line in store.status()["lines"])


def test_a_filler_that_dies_is_followed_and_asked_again(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown, held=shown.right)
        reading = Reading(top / "f0", 5 * PAGE, 100)
        until(lambda: bool(serving.needed))
    until(serving.ended.is_set)
    assert reading.waits
    with store.link() as link:
        again = Serving(store, link, shown)
        assert reading.result() == shown.content("f0")[5 * PAGE : 5 * PAGE + 100]
        assert {word.window_id for word in again.needed} == {serving.needed[0].window_id}


def test_a_keeper_starts_fillers_until_one_serves(store: KeptStore, shown: Shown) -> None:
    store.filler = ["/bin/sh", "-c", f"echo started >>{store.base}/fillers"]
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
    reading = Reading(top / "f0", 0, 100)
    until(lambda: (store.base / "fillers").exists())
    assert reading.waits
    for _ in range(100):  # it may be held by one that is just starting
        with suppress(PostTaken), store.link() as link:
            Serving(store, link, shown)
            assert reading.result() == shown.content("f0")[:100]
            break


def test_readers_wait_while_the_keeper_is_dead_and_go_on_with_the_next(
    store: KeptStore, shown: Shown
) -> None:
    first = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown, held=shown.right)
        early = [Reading(top / f"f{number}", 0, 100) for number in range(3)]
        until(lambda: store.status()["waiting"] == 3)
        store.kill(first)
        until(serving.ended.is_set)
        late = Reading(top / "f3", 0, 100)  # nobody is there to take its event in
        assert late.waits and all(reading.waits for reading in early)
        second = store.start(link.held)
        assert second != first
        assert store.status()["waiting"] >= 3
    with store.link() as link:
        Serving(store, link, shown)
        for number, reading in enumerate([*early, late]):
            assert reading.result() == shown.content(f"f{number}")[:100]
        assert store.status()["counts"]["refused"] == 0


def test_a_keeper_is_followed_and_loses_nothing_however_many_mounts_there_are(
    store: KeptStore, shown: Shown
) -> None:
    names = [f"mount{number}" for number in range(150)]
    # A long NO_PROXY, an account.
    requests = {name: {"of": name, "secret": name + "x" * 2000} for name in names}
    first = store.start()
    with store.link() as link:
        tops = [store.mount(link, shown, name) for name in names]
        store.kill(first)
        while link.hear() is not None:
            pass
        link.restore({**requests, "gone meanwhile": {"of": "gone meanwhile"}})
        store.pids.add(store.status()["pid"])
        assert len(store.status()["mounts"]) == 150
        while link.hear() != {"gone": "gone meanwhile"}:
            pass
    with store.link() as link:
        told: dict[str, object] = {}
        while len(told) < 150:
            said = link.hear()
            assert isinstance(said, dict)
            told[said["mount"]] = said["request"]
        assert told == requests
        Serving(store, link, shown)
        assert content_of(tops[-1] / "f0") == shown.content("f0")


def test_an_answer_to_a_new_reader_never_reaches_one_who_waited_before(
    store: KeptStore, shown: Shown
) -> None:
    """The kernel knows accesses by the descriptor numbers of who has read them: a successor has the same."""
    first = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown, held=shown.right)
        old = [Reading(top / "f0", 0, 100), Reading(top / "f1", 0, 100)]
        until(lambda: store.status()["waiting"] == 2)
        store.kill(first)
        store.start(link.held)
    with store.link() as link:
        serving = Serving(store, link, shown, held=[*shown.windows("f0"), *shown.windows("f1")])
        for number in (2, 3, 4):
            assert Reading(top / f"f{number}", 0, 100).result() == shown.content(f"f{number}")[:100]
        assert [reading.waits or reading.result() for reading in old] == [True, True]
        for number, reading in enumerate(old):
            serving.serve(shown.windows(f"f{number}")[0])
            assert reading.result() == shown.content(f"f{number}")[:100]


def test_with_everybody_dead_absent_data_is_an_error_and_there_again_without_remounting(
    store: KeptStore, shown: Shown
) -> None:
    keeper = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown)
        assert content_of(top / "f0") == shown.content("f0")
        serving.held.update(shown.right)
        waiting = Reading(top / "f1", 0, 100)
        until(lambda: store.status()["waiting"] == 1)
        store.kill(keeper)
    assert waiting.result() == errno.EIO
    for how in ("pread", "mmap", "sendfile"):
        assert Reading(top / "f1", 0, 100, how).result() == errno.EIO
    assert Reading(top / "f0", 0, 600 * KIB).result() == shown.content("f0")
    store.start()
    assert store.status()["mounts"] == {"mountpoint": len(shown.right)}
    with store.link() as link:
        Serving(store, link, shown)
        for entry in shown.root.children:
            assert content_of(top / os.fsdecode(entry.name)) == entry.content


def test_a_keeper_that_starts_itself_anew_keeps_its_readers(store: KeptStore, shown: Shown) -> None:
    pid = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown, held=shown.right)
        reading = Reading(top / "f0", 0, 100)
        until(lambda: store.status()["waiting"] == 1)
        before = store.status()["number"]
        assert ask_keeper(store.root, {"ask": "restart", "command": store.program.command}) is not None
        until(serving.ended.is_set)
    until(lambda: Doorway(store.root).number > before and keeper_status(store.root) is not None)
    assert store.status()["pid"] == pid
    assert reading.waits
    with store.link() as link:
        Serving(store, link, shown)
        assert reading.result() == shown.content("f0")[:100]


def test_a_service_manager_keeps_what_readers_wait_on(store: KeptStore, shown: Shown) -> None:
    """systemd's protocol, with this test in its place: NOTIFY_SOCKET, FDSTORE, LISTEN_FDS."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(store.base / "notify"))
    manager.settimeout(10)
    os.environ["NOTIFY_SOCKET"] = str(store.base / "notify")
    try:
        first = store.start()
        stored: dict[str, int] = {}
        words = []
        for _ in range(7):
            raw, descriptors, _, _ = socket.recv_fds(manager, 4096, 4)
            words.append(raw.decode())
            if descriptors:
                stored[raw.decode().partition("FDNAME=")[2]] = descriptors[0]
        assert words[0] == f"READY=1\nMAINPID={first}"
        # What another keeper had left of that name must go: of a group that nobody reads readers would wait.
        assert words[1:] == [
            f"{word}=1\nFDNAME={name}" for name in handover.STORED for word in ("FDSTOREREMOVE", "FDSTORE")
        ]
        with store.link() as link:
            top = store.mount(link, shown)
            Serving(store, link, shown, held=shown.right)
            reading = Reading(top / "f0", 0, 100)
            until(lambda: store.status()["waiting"] == 1)
            store.kill(first)
        # Keeper and filler are dead; the manager alone holds on.
        assert reading.waits
        store.start(stored)
        for descriptor in stored.values():
            os.close(descriptor)
        with store.link() as link:
            Serving(store, link, shown)
            assert reading.result() == shown.content("f0")[:100]
    finally:
        del os.environ["NOTIFY_SOCKET"]
        manager.close()


def test_there_is_one_keeper_per_store_and_one_filler(store: KeptStore) -> None:
    assert store.start()
    assert start_keeper(store.program, {}) == 0
    with store.link(), pytest.raises(PostTaken, match="there is a filler"), store.link():
        pass


@pytest.mark.parametrize("how", ["removed", "moved away"])
def test_a_keeper_whose_socket_is_taken_away_makes_another(store: KeptStore, how: str) -> None:
    pid = store.start()
    for _ in range(2):
        path = store.root / KEEPER / SOCKET
        if how == "removed":
            path.unlink()
        else:
            path.rename(store.base / "elsewhere")
        until(lambda: (keeper_status(store.root, needed=True) or {}).get("pid") == pid)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with store.link() as link:
        assert link.held


@pytest.mark.parametrize(
    "question",
    [
        b"[" * 60_000,
        b'{"ask": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"ask": "take", "mount": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"ask": "restart", "command": []}',
        b'{"ask": "restart", "command": ["/nonexistent"]}',
        b'{"ask": "restart", "command": ["/etc"]}',
        b'{"ask": "restart", "command": ["/bin/true", 5]}',
        b'{"ask": "restart", "command": ["/bin/true", "\\u0000"]}',
    ],
)
def test_no_question_ends_a_keeper(store: KeptStore, question: bytes) -> None:
    pid = store.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.connect(str(store.root / KEEPER / SOCKET))
        asking.send(question)
        said = asking.recv(1 << 16)
        assert said == b"" or "refused" in json.loads(said)
    assert store.status()["pid"] == pid


def test_a_keeper_that_is_about_to_be_needed_does_not_end(store: KeptStore) -> None:
    pid = store.start()
    for _ in range(8):  # longer than one lives of whom nobody wants anything
        time.sleep(0.25)
        status = keeper_status(store.root, needed=True)
        assert status is not None and status["pid"] == pid
    until(lambda: keeper_status(store.root) is None)


def test_a_keeper_is_small_locked_in_memory_and_of_the_standard_library(store: KeptStore) -> None:
    pid = store.start()
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    assert int(status["VmLck"].split()[0]) > 4000
    assert int(status["RssAnon"].split()[0]) < 16_000
    assert int(status["Threads"]) == 1
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "site-packages" not in mapped
    assert not [link for link in Path(f"/proc/{pid}/fd").iterdir() if "TCP" in str(link.readlink())]


def test_a_keeper_does_not_queue_up_for_a_processor_behind_its_readers_but_its_fillers_do(
    store: KeptStore, shown: Shown
) -> None:
    store.filler = ["/bin/sleep", "60"]
    pid = store.start()
    assert os.sched_getscheduler(pid) == os.SCHED_RR | os.SCHED_RESET_ON_FORK
    with store.link() as link:
        store.mount(link, shown)
    until(lambda: store.status()["fillers_started"] == 1)
    (filler,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    assert os.sched_getscheduler(filler) == os.SCHED_OTHER


def test_more_readers_than_descriptors_wait_in_the_kernel(store: KeptStore) -> None:
    shown = store.show(random_tree(2, files=230, size=4 * KIB), run=1)
    limiting = "import os,resource as r,sys; r.setrlimit(7, (256, 256)); os.execv(sys.argv[1], sys.argv[1:])"
    program = store.program
    pid = start_keeper(program._replace(command=[sys.executable, "-c", limiting, *program.command]), {})
    store.pids.add(pid)
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown, held=shown.right)
        found: dict[int, bytes] = {}

        def read(number: int) -> None:
            found[number] = content_of(top / f"f{number}")

        threads = [threading.Thread(target=read, args=(number,)) for number in range(230)]
        for thread in threads:
            thread.start()
        until(lambda: store.status()["waiting"] == 256 - 64)
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 256
        serving.held.clear()
        for window_id in shown.right:
            serving.serve(window_id)
        for thread in threads:
            thread.join()
        assert all(found[number] == shown.content(f"f{number}") for number in range(230))
        assert store.status()["counts"]["refused"] == 0


def test_more_readers_than_descriptors_get_bytes_or_an_error_within_the_limit(store: KeptStore) -> None:
    """Also those whom nobody has read from the kernel's queue because there was no room."""
    store.reader_seconds = 6.0
    shown = store.show(random_tree(3, files=230, size=4 * KIB), run=1)
    resource.prlimit(store.start(), resource.RLIMIT_NOFILE, (256, 256))
    ask_keeper(store.root, {"ask": "restart", "command": store.program.command})
    until(lambda: keeper_status(store.root) is not None)
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown, held=shown.right)
        began = time.monotonic()
        readings = [
            subprocess.Popen(["cat", top / f"f{number}"], stderr=subprocess.DEVNULL) for number in range(230)
        ]
        assert [reading.wait(60) for reading in readings] == [1] * 230
        assert 5 < time.monotonic() - began < 10
        assert any("more than 192 reads wait" in line for line in store.status()["lines"])


def test_who_fills_a_window_never_waits_for_it(store: KeptStore, shown: Shown) -> None:
    """A process that opened a window before it could know of the keeper: its lock tells."""
    store.start()
    with store.link() as link:
        store.mount(link, shown)
        Serving(store, link, shown, held=shown.right)
        window_id = shown.windows("f0")[0]
        program = (
            "import fcntl,os,sys; f=os.open(sys.argv[1],os.O_RDWR); fcntl.flock(f,fcntl.LOCK_EX);"
            "os.pwrite(f,b'x'*4096,0); print('written')"
        )
        command = [sys.executable, "-c", program, str(store.window(window_id))]
        assert subprocess.run(command, capture_output=True, timeout=10, check=True).stdout == b"written\n"
        assert store.status()["counts"]["own"] == 1


def test_what_goes_through_the_door_asks_nobody(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        store.mount(link, shown)
        window_id = shown.windows("f0")[0]
        locked = store.directory.try_lock(window_id, len(shown.right[window_id]))
        assert locked is not None
        locked.write(0, [shown.right[window_id][:PAGE]])
        assert locked.read(0, PAGE) == shown.right[window_id][:PAGE]
        locked.sync()
        assert locked.read(0, PAGE) == shown.right[window_id][:PAGE]
        locked.close()
        descriptor = store.directory.open_read(window_id, None)
        assert descriptor is not None
        assert os.read(descriptor, PAGE) == shown.right[window_id][:PAGE]
        os.close(descriptor)
        assert store.status()["counts"]["events"] == 0


def test_who_is_busy_while_a_keeper_starts_asks_nobody_from_then_on(
    store: KeptStore, shown: Shown
) -> None:
    """However often windows are opened meanwhile: a moment without a door must not be one for ever."""
    window_id = shown.windows("f0")[0]
    ended = threading.Event()

    def open_windows() -> None:
        while not ended.is_set():
            descriptor = store.directory.open_read(window_id, None)
            assert descriptor is not None
            os.close(descriptor)

    opening = [threading.Thread(target=open_windows) for _ in range(2)]
    for thread in opening:
        thread.start()
    try:
        for _ in range(3):
            pid = store.start()
            with store.link() as link:
                store.mount(link, shown)
                locked = store.directory.try_lock(window_id, len(shown.right[window_id]))
                assert locked is not None
                locked.write(0, [shown.right[window_id][:PAGE]])
                locked.close()
                assert store.status()["counts"]["events"] == 0
                detach(store.base / "mountpoint", lazy=True)
                until(lambda: store.status()["mounts"] == {})
                forget_hold(store.root, "mountpoint")
            ask_keeper(store.root, {"ask": "end"})
            os.waitpid(pid, 0)
            store.pids.discard(pid)
    finally:
        ended.set()
        for thread in opening:
            thread.join()


def test_a_reader_that_is_killed_leaves_nothing_behind(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown, held=shown.right)
        reading = Reading(top / "f0", 0, 100)
        until(lambda: store.status()["waiting"] == 1)
        reading.kill()
        again = Reading(top / "f0", 0, 100)
        until(lambda: store.status()["waiting"] == 2)
        serving.serve(shown.windows("f0")[0])
        assert again.result() == shown.content("f0")[:100]
        assert store.status()["waiting"] == 0


def test_a_stopped_filler_is_replaced(store: KeptStore, shown: Shown) -> None:
    program = (
        "import sys,time; from pathlib import Path; from erofs_fs.filler_link import FillerLink;"
        "from erofs_fs.keeper_program import KeeperProgram;"
        "link=FillerLink(Path(sys.argv[1]), KeeperProgram([], Path('/dev/null')), {}); time.sleep(3600)"
    )
    store.filler = [sys.executable, "-c", program, str(store.root)]
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
    reading = Reading(top / "f0", 0, 100)
    until(lambda: store.status()["filler"] is not None)
    store.filler = ["/bin/true"]
    silent = store.status()["filler"]
    os.kill(silent, signal.SIGSTOP)
    until(lambda: store.status()["filler"] != silent)
    assert reading.waits
    for _ in range(200):
        with suppress(PostTaken, KeeperFailed), store.link() as link:
            Serving(store, link, shown)
            assert reading.result() == shown.content("f0")[:100]
            break
        filler = store.status()["filler"]
        if filler:
            with suppress(ProcessLookupError):
                os.kill(filler, signal.SIGKILL)


def has_one_group(pid: int) -> bool:
    """Whether one descriptor of the process is a group of events."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += "fanotify" in str(descriptor.readlink())
    return count == 1


def test_what_a_keeper_gives_away_is_inherited_by_nobody(store: KeptStore, shown: Shown) -> None:
    """A group of events in the hands of somebody who does not read it keeps readers waiting for ever."""
    store.start()
    with store.link() as link:
        store.mount(link, shown)
        assert store.directory.open_read(shown.windows("f0")[0], None) is not None
        listing = (
            "import os; print([os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')])"
        )
        child = subprocess.run(
            [sys.executable, "-c", listing], capture_output=True, text=True, check=False, close_fds=False
        )
        assert "fanotify" not in child.stdout and "memfd:journal" not in child.stdout
        for _ in range(4):
            store.kill(store.status()["pid"])
            pid = store.start(link.held)
            store.pids.add(pid)
            # While it starts a filler it has a second one for a moment.
            until(partial(has_one_group, pid))
