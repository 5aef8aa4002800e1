"""`nopull pull` against Debian's registry: afterwards an image mounts and runs with nobody there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import mounts
from launch.control import ask
from launch.umount import unmount
from tests.launch.published import publish
from tests.support.command import nopull
from tests.support.debian_registry import DebianRegistry
from tests.support.images import image_of
from tests.support.trees import file, tree
from tests.system.busybox_image import BUSYBOX, write_layout

pytestmark = pytest.mark.system

PATIENCE = 60.0
CONTENT = os.urandom(7_000_000)


@pytest.fixture
def registry() -> Iterator[DebianRegistry]:
    with DebianRegistry() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory to mount on, unmounted at the end; the state root is beside it."""
    mountpoint = tmp_path / "mountpoint"
    mountpoint.mkdir()
    try:
        yield mountpoint
    finally:
        for record in mounts.records(tmp_path / "root"):
            unmount(record.mountpoint, tmp_path / "root", lazy=True)


def blob_requests(registry: DebianRegistry) -> int:
    return sum(access.is_blob for access in registry.accesses())


def test_a_pulled_image_mounts_and_runs_when_its_registry_is_gone(
    registry: DebianRegistry, tmp_path: Path, place: Path
) -> None:
    if not BUSYBOX.exists():
        pytest.skip("needs the package busybox-static")
    root = tmp_path / "root"
    name = f"docker://{registry.host}/app:1"
    write_layout(tmp_path / "plain", {"Cmd": ["/bin/echo", "it runs"]})
    assert nopull("convert", f"oci:{tmp_path}/plain:v1", name).returncode == 0
    pulled = nopull("pull", name, "--root", root)
    assert pulled.returncode == 0, pulled.stderr
    assert "is local" in pulled.stdout and "fetching:" in pulled.stderr
    assert mounts.records(root) == [] and not list((root / "run").glob("*"))
    registry.stop()

    mounted = nopull("mount", name, place, "--root", root)
    assert mounted.returncode == 0 and "last known meaning" in mounted.stderr
    assert (place / "bin/busybox").read_bytes() == BUSYBOX.read_bytes()
    assert mounts.records(root)[0].warnings
    digest = mounts.records(root)[0].digest
    assert nopull("umount", place, "--root", root).returncode == 0
    for wanted in (name, f"{name.rpartition(':')[0]}@{digest}"):
        ran = nopull("run", "--root", root, wanted)
        assert (ran.returncode, ran.stdout) == (0, "it runs\n"), ran.stderr


def test_pulling_tells_scripts_what_came_and_fetches_nothing_twice(
    registry: DebianRegistry, tmp_path: Path
) -> None:
    name = f"docker://{registry.host}/app:1"
    image = image_of(tree(file(b"f", CONTENT), file(b"g", b"g", blob=1)))
    published = publish(image, name, tmp_path)
    first = json.loads(nopull("pull", "--json", name, "--root", tmp_path / "root").stdout)
    assert first["digest"] == published.manifest.digest and first["warnings"] == []
    assert first["fetched_windows"] == first["windows_total"] > 1
    # All compressed content of the blobs, and less than their objects, which have tables at their ends.
    assert len(CONTENT) <= first["fetched_bytes"] <= sum(map(len, image.objects.values()))
    before = blob_requests(registry)
    second = nopull("pull", "--json", name, "--root", tmp_path / "root")
    again = json.loads(second.stdout)
    assert (again["fetched_bytes"], again["requests"], again["bytes_total"]) == (0, 0, first["bytes_total"])
    assert blob_requests(registry) == before and "fetching" not in second.stderr


def test_a_pull_fetches_only_what_is_missing(
    registry: DebianRegistry, tmp_path: Path, place: Path
) -> None:
    name = f"docker://{registry.host}/app:1"
    publish(image_of(tree(file(b"f", CONTENT), file(b"g", b"g", blob=1))), name, tmp_path)
    root = tmp_path / "root"
    assert nopull("mount", "--no-background", "--driver", "fuse", name, place, "--root", root).returncode == 0
    assert (place / "g").read_bytes() == b"g"
    # A reader is answered from the verified prefix; the window counts when its last byte is there.
    deadline = time.monotonic() + 10
    present = 0
    while not present and time.monotonic() < deadline:
        present = ask(mounts.records(root)[0].control)["progress"]["windows_present"]
    unmount(place, root)
    done = json.loads(nopull("pull", "--json", name, "--root", root).stdout)
    assert present == 1
    assert done["fetched_windows"] == done["windows_total"] - present
    assert len(CONTENT) <= done["fetched_bytes"] < len(CONTENT) + 10_000
    registry.stop()
    assert nopull("mount", name, place, "--root", root).returncode == 0
    assert (place / "f").read_bytes() == CONTENT


def test_a_pull_of_what_is_gone_says_so_and_keeps_what_came(
    registry: DebianRegistry, tmp_path: Path, place: Path
) -> None:
    name = f"docker://{registry.host}/app:1"
    publish(image_of(tree(file(b"f", CONTENT), file(b"g", b"g", blob=1))), name, tmp_path)
    root = tmp_path / "root"
    absent = nopull("pull", f"{name}-other", "--root", root)
    assert absent.returncode == 5 and "app:1-other" in absent.stderr
    assert nopull("mount", "--no-background", name, place, "--root", root).returncode == 0
    assert (place / "g").read_bytes() == b"g"
    unmount(place, root)
    registry.remove()
    registry.start()
    refused = nopull("pull", name, "--root", root)
    assert refused.returncode == 5 and "404" in refused.stderr
    registry.stop()
    assert nopull("mount", "--no-background", name, place, "--root", root).returncode == 0
    assert (place / "g").read_bytes() == b"g"
