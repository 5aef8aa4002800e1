"""A keeper that is stopped is replaced by whoever misses it, and no read fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunk_store.keeper_client import KEEPER, LOCK
from erofs_fs.holds import HOLDS
from erofs_fs.taken_over import owner_of
from launch.kernel_mounts.keeper_start import FILLER_LOCK, keeper_status
from tests.kills.kernel_run import process_lives
from tests.support.trees import file, tree
from tests.system.kept_store import Reading, until
from tests.system.test_keeper_verbs import managed
from tests.system.test_lazy_kernel_mount import FILES, LARGE, Place, assert_right, place

__all__ = ["place"]  # a fixture is found by its name here

pytestmark = pytest.mark.system


@contextmanager
def without_registry(place: Place) -> Iterator[None]:
    os.kill(place.registry.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(place.registry.pid, signal.SIGCONT)


def waiting_reader(place: Place, where: Path) -> Reading:
    """Of the beginning of f2: the keeper has read its event."""
    reading = Reading(where / "f2", 0, 100)
    until(lambda: (keeper_status(place.root) or {}).get("waiting") == 1)
    return reading


def test_a_stopped_keeper_is_replaced_by_the_filler_and_no_read_fails(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    with without_registry(place):
        early = waiting_reader(place, where)
        os.kill(keeper, signal.SIGSTOP)
        late = Reading(where / "f3", 0, 100)  # its event nobody reads
    assert early.result() == FILES[b"f2"][:100]
    assert late.result() == FILES[b"f3"][:100]
    status = keeper_status(place.root)
    assert status is not None and status["pid"] != keeper and status["filler"] == filler
    assert not process_lives(keeper)  # so that it does no harm when it is continued
    assert_right(where)


@pytest.mark.parametrize("stopped", [("keeper",), ("filler", "keeper"), ("filler",)])
def test_ps_replaces_who_is_stopped_when_nobody_else_can_and_no_read_fails(
    place: Place, stopped: tuple[str, ...]
) -> None:
    """The other one is killed, if only one is stopped."""
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    pids = {"keeper": keeper, "filler": filler}
    with without_registry(place):
        early = waiting_reader(place, where)
        for name in stopped:
            os.kill(pids[name], signal.SIGSTOP)
        for name in pids.keys() - set(stopped):
            os.kill(pids[name], signal.SIGKILL)
        late = Reading(where / "f3", 0, 100)
    if stopped == ("keeper",):
        said = place.command("keeper", "status", code=7).stderr
        assert f"process {keeper} is the keeper of the store {place.root} and is stopped; continue" in said
    said = place.command("ps").stderr
    assert "they have one again" in said
    assert early.result() == FILES[b"f2"][:100]
    assert late.result() == FILES[b"f3"][:100]
    assert owner_of(place.root / KEEPER / LOCK) not in (0, keeper)
    until(lambda: owner_of(place.root / KEEPER / FILLER_LOCK) not in (0, filler))
    assert_right(where)


@pytest.mark.parametrize("other", [False, True], ids=["same-image", "other-image"])
def test_a_mount_that_a_stopped_keeper_was_asked_for_is_made_by_the_next_and_leaves_nothing(
    place: Place, other: bool
) -> None:
    reference = place.publish(LARGE)
    first = place.mount(reference)
    keeper, filler = place.pids()
    os.kill(keeper, signal.SIGSTOP)
    small = tree(file(b"f2", FILES[b"f2"]))
    second = place.mount(place.publish(small, "v2") if other else reference, "second")
    assert not process_lives(keeper)
    status = keeper_status(place.root)
    assert status is not None and status["filler"] == filler and len(status["mounts"]) == 2
    assert_right(second, b"f2")
    place.command("umount", first)
    assert_right(second, b"f2")
    place.command("umount", second)
    until(lambda: keeper_status(place.root) is None)  # it has no mount, which would keep it
    assert list((place.root / KEEPER / HOLDS).iterdir()) == []


def test_a_mount_waits_for_no_filler_that_is_stopped(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    _, filler = place.pids()
    os.kill(filler, signal.SIGSTOP)
    other = place.mount(place.publish(tree(file(b"f", b"content")), "v2"), "other")  # the command has 100 s
    assert (other / "f").read_bytes() == b"content"
    assert not process_lives(filler)
    assert_right(where)


@pytest.mark.parametrize("how", ["pull", "fuse"])
def test_who_writes_windows_does_not_wait_for_a_keeper_that_is_stopped(place: Place, how: str) -> None:
    reference = place.publish(LARGE)
    where = place.mount(reference)
    keeper, filler = place.pids()
    os.kill(keeper, signal.SIGSTOP)
    os.kill(filler, signal.SIGKILL)
    if how == "pull":
        place.command("pull", reference)
    else:
        assert_right(place.mount(reference, "other", "--driver", "fuse"))
    assert not process_lives(keeper)
    assert_right(where)


def test_a_managed_keeper_takes_the_place_of_one_that_is_stopped_and_its_readers(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    keeper, filler = place.pids()
    with without_registry(place):
        reading = waiting_reader(place, where)
        os.kill(keeper, signal.SIGSTOP)
        os.kill(filler, signal.SIGKILL)
        with managed(place.root) as (process, _):
            assert owner_of(place.root / KEEPER / LOCK) == process.pid
            os.kill(place.registry.pid, signal.SIGCONT)
            assert reading.result() == FILES[b"f2"][:100]
            assert_right(where)


def test_a_keeper_that_starts_anew_again_and_again_under_readers_fails_none(place: Place) -> None:
    where = place.mount(place.publish(LARGE))
    readings: list[tuple[int, int, Reading]] = []

    def all_wait() -> bool:
        return (keeper_status(place.root) or {}).get("waiting") == len(readings)

    with without_registry(place):
        for number in range(1, 5):
            readings += [(number, at, Reading(where / f"f{number}", at, 100)) for at in (0, 1 << 20, 2 << 20)]
            until(all_wait)
            place.command("keeper", "restart")
    for number, at, reading in readings:
        assert reading.result() == FILES[b"f%d" % number][at:][:100]
    assert_right(where)
