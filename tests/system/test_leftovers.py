"""Whatever dies, and whoever unmounts: what comes next leaves nothing of it but the store's own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from chunk_store.place import stores
from launch import mounts
from launch.kernel_mounts.keeper_start import keeper_status
from tests.system.kept_store import until
from tests.system.test_lazy_kernel_mount import LARGE, Place
from tests.system.test_lazy_kernel_mount import place as place  # a fixture

pytestmark = pytest.mark.system


@pytest.fixture
def orphans(place: Place) -> list[Path]:
    """Where mounts of all kinds are whose processes were killed."""
    image = place.publish(LARGE)
    made = {
        place.mount(image, name, *options.split())
        for name, options in (
            ("kernel", "--driver erofs --no-background"),
            ("isolated", "--driver erofs --no-background --isolate"),
            ("served", "--driver fuse"),
            ("shared", "--shared"),
        )
    }
    pids = {record.server for record in mounts.records(place.root) if record.pids}
    for store in stores(place.root):
        until(lambda: (keeper_status(store) or {}).get("filler") is not None)  # noqa: B023
        status = keeper_status(store)
        assert status is not None
        pids |= {status["pid"], status["filler"]}
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    return sorted(made)


def left(root: Path) -> list[str]:
    """What lies below *root* of single mounts."""
    mine = [path for store in stores(root) for path in (store / "keeper" / "mounts").iterdir()]
    mine += [*(root / "mounts").iterdir(), *(root / "run").iterdir(), *(root / "log").iterdir()]
    for_all = {"shared.lock", "shared.sock", "filler.log", "keeper.log"}
    return [path.name for path in mine if path.name not in for_all]


def test_unmounting_what_nobody_keeps_leaves_nothing_of_it(place: Place, orphans: list[Path]) -> None:
    for where in orphans:
        place.command("umount", where)
    assert left(place.root) == []


def test_a_listing_clears_away_what_others_have_unmounted_while_nobody_looked(
    place: Place, orphans: list[Path]
) -> None:
    for where in orphans:
        subprocess.run(["umount", where], check=True)
    assert place.command("ps").stdout.count("gone") == len(orphans)
    assert left(place.root) == []
