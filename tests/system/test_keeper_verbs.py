"""`nopull keeper`: keepers that service managers run, and what an upgrade does to mounts that live."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunk_store import ChunkStore
from chunk_store.keeper_client import ask_keeper
from erofs_fs import handover
from erofs_fs.errors import KeeperFailed
from erofs_fs.keeper_life import take_lock
from erofs_fs.keeper_program import KeeperProgram, start_keeper
from launch.kernel_mounts import keeper_start
from launch.kernel_mounts.filler_life import linked
from launch.kernel_mounts.keeper_start import end_keeper, ensure_keeper, keeper_status
from tests.support.command import COMMAND
from tests.system.kept_store import KeptStore, Reading, Serving, Shown, until
from tests.system.test_keeper import pytestmark
from tests.system.test_lazy_kernel_mount import FILES, LARGE, Place, assert_right, place

__all__ = ["place", "pytestmark"]  # fixtures are found by their names here


@contextmanager
def managed(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """`nopull keeper run` as a service manager starts it, and the socket it tells."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(root.parent / "notify"))
        manager.settimeout(20)
        process = subprocess.Popen(
            [*COMMAND, "keeper", "run", "--root", str(root)],
            env={**os.environ, handover.NOTIFY_SOCKET: str(root.parent / "notify")},
            stdout=subprocess.DEVNULL,
        )
        try:
            assert manager.recv(4096).decode() == f"READY=1\nMAINPID={process.pid}"
            yield process, manager
        finally:
            process.terminate()
            process.wait(20)


def test_a_managed_keeper_takes_the_place_of_one_that_runs_and_its_readers(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    before, _ = place.pids()
    os.kill(place.registry.pid, signal.SIGSTOP)
    try:
        reading = Reading(where / "f2", 0, 100)
        until(lambda: (keeper_status(place.root) or {}).get("waiting") == 1)
        with managed(place.root) as (process, _):
            status = keeper_status(place.root)
            assert status is not None
            assert (status["pid"], status["waiting"]) == (process.pid, 1)
            assert process.pid != before
            assert reading.waits
            os.kill(place.registry.pid, signal.SIGCONT)
            assert reading.result() == FILES[b"f2"][:100]
            assert_right(where)
    finally:
        os.kill(place.registry.pid, signal.SIGCONT)


def test_a_filler_leaves_starting_the_next_keeper_to_the_manager_of_the_last(
    store: KeptStore, shown: Shown
) -> None:
    with managed(store.root) as (process, manager):
        stored: dict[str, int] = {}
        while len(stored) < len(handover.STORED):
            raw, descriptors, _, _ = socket.recv_fds(manager, 4096, 4)
            if descriptors:
                stored[raw.decode().partition("FDNAME=")[2]] = descriptors[0]
        until(lambda: store.status()["filler"] is None)
        link = store.link()
        with link as held:
            top = store.mount(held, shown)
            process.send_signal(signal.SIGKILL)
            process.wait(20)
            reading = Reading(top / "f0", 0, 100)
            follower = subprocess.Popen(["sleep", "0"])  # a moment passes before the manager acts
            follower.wait()
            next_pid = store.start(stored)
            held.restore({})
            assert store.status()["pid"] == next_pid
            Serving(store, held, shown)
            assert reading.result() == shown.content("f0")[:100]
        for descriptor in stored.values():
            os.close(descriptor)


def test_nopull_is_upgraded_while_mounts_live(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    before = keeper_status(place.root)
    assert before is not None
    os.kill(place.registry.pid, signal.SIGSTOP)
    try:
        reading = Reading(where / "f2", 0, 100)
        until(lambda: (keeper_status(place.root) or {}).get("waiting") == 1)
        assert f"restarted: {place.root}" in place.command("keeper", "restart").stdout
        assert reading.waits
    finally:
        os.kill(place.registry.pid, signal.SIGCONT)
    assert reading.result() == FILES[b"f2"][:100]
    keeper_now, filler_now = place.pids()
    assert keeper_now == keeper
    assert filler_now != filler
    assert_right(where)


@pytest.mark.parametrize("verb", ["run", "restart"])
def test_a_keeper_is_not_replaced_by_one_that_cannot_write(place: Place, verb: str) -> None:
    where = place.mount(place.publish(LARGE))
    before = keeper_status(place.root)
    assert before is not None
    read_only = f'mount --bind "{place.root}" "{place.root}" && mount -o remount,bind,ro "{place.root}"'
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", f'{read_only} && exec "$@"', "sh"]
    refused = subprocess.run(
        [*command, *COMMAND, "keeper", verb, "--root", str(place.root)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 7, refused
    assert f"a keeper of {place.root} has to write to " in refused.stderr
    after = keeper_status(place.root)
    assert after is not None and (after["pid"], after["number"]) == (before["pid"], before["number"])
    assert_right(where)


def test_an_upgrade_that_does_not_start_costs_no_read(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, _ = place.pids()
    os.kill(place.registry.pid, signal.SIGSTOP)
    try:
        reading = Reading(where / "f2", 0, 100)
        until(lambda: (keeper_status(place.root) or {}).get("waiting") == 1)
        assert ask_keeper(place.root, {"ask": "restart", "command": ["/bin/false"]}) is not None
        until(lambda: (keeper_status(place.root) or {"pid": keeper})["pid"] != keeper)
        assert reading.waits
    finally:
        os.kill(place.registry.pid, signal.SIGCONT)
    assert reading.result() == FILES[b"f2"][:100]
    assert_right(where)


def test_a_keeper_that_mounts_need_is_ended_only_by_force(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    assert "not all is local" in place.command("keeper", "end", code=7).stderr
    assert_right(where, b"f0")
    assert f"ended: {place.root}" in place.command("keeper", "end", "--force").stdout
    assert keeper_status(place.root) is None
    assert_right(where, b"f0")
    assert place.command("keeper", "end").stdout == "no keeper runs\n"
    place.command("ps")
    assert_right(where)


def test_status_says_who_works_and_who_waits(place: Place) -> None:
    assert place.command("keeper", "status").stdout == "no keeper runs\n"
    place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    told = place.command("keeper", "status").stdout
    assert f"keeper {keeper}, filler {filler}" in told
    assert "waiting  0 reads" in told


def test_the_unit_is_one_and_starts_the_keeper_of_the_root(place: Place) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(place.command("keeper", "unit").stdout)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].endswith(f"keeper run --root {place.root}")
    assert int(service["FileDescriptorStoreMax"]) >= len(handover.STORED)
    assert ask_keeper(place.root, {"ask": "status"}) is None


def test_a_keeper_out_of_reach_is_named_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "root"
    ChunkStore(place).close()
    lock = take_lock(place)
    assert lock is not None
    tried: list[int] = []

    def start(program: KeeperProgram, given: dict[str, int]) -> int:
        tried.append(start_keeper(program, given))
        return tried[-1]

    monkeypatch.setattr(keeper_start, "start_keeper", start)
    monkeypatch.setattr(keeper_start, "_PATIENCE_SECONDS", 1.0)
    with pytest.raises(KeeperFailed, match=f"process {os.getpid()} is the keeper of the store .*`kill"):
        ensure_keeper(place, place)
    assert 1 < len(tried) <= 10 and not any(tried)
    os.close(lock)


def test_who_found_a_keeper_that_had_nothing_to_do_and_ended_gets_another(tmp_path: Path) -> None:
    place = tmp_path / "root"
    ChunkStore(place).close()
    ensure_keeper(place, place)
    until(lambda: keeper_status(place) is None)  # after a second, as between two mounts far apart
    link = linked(place, place, None)
    try:
        assert keeper_status(place) is not None
    finally:
        link.close()
        end_keeper(place)
