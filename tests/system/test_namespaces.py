"""Processes that stay keep nothing busy of the mount namespaces that they were started in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.command import COMMAND
from tests.system.kept_store import until
from tests.system.test_lazy_kernel_mount import FILES, LARGE, Place, assert_right
from tests.system.test_lazy_kernel_mount import place as place  # a fixture

pytestmark = pytest.mark.system


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file with a file system that can be mounted through a loop device."""
    for program in ("mkfs.ext4", "losetup"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    made = tmp_path / "disk"
    with made.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", made], check=True, capture_output=True)
    return made


def is_free(disk: Path) -> bool:
    """Whether no loop device has it any more, so nothing has it mounted."""
    return not subprocess.run(["losetup", "-j", disk], capture_output=True, check=True).stdout


def test_what_else_is_mounted_goes_when_it_is_unmounted(place: Place, disk: Path) -> None:
    other = place.base / "other"
    other.mkdir()
    subprocess.run(["mount", "-o", "loop", disk, other], check=True, capture_output=True)
    where = place.mount(place.publish(LARGE))  # starts filler and keeper
    subprocess.run(["umount", other], check=True)
    until(lambda: is_free(disk))
    assert_right(where, b"f1")


def test_a_store_that_only_a_namespace_sees_goes_with_it(place: Place, disk: Path) -> None:
    """Also where keeper and filler were started with copies of mounts that were there before."""
    first, second = place.base / "first", place.base / "second"
    for needed in (first, second, place.root):
        needed.mkdir()
    image = place.publish(LARGE)
    script = f"""
        nopull() {{ {" ".join(COMMAND)} "$@" --root {place.root}; }}
        set -e
        mount -o loop {disk} {place.root}
        nopull mount {image} {first} --driver erofs --no-background
        kill -9 $(nopull keeper status --json | grep -oE '"(filler|pid)": [0-9]+' | grep -oE '[0-9]+')
        nopull mount {image} {second} --driver erofs --no-background
        cat {first}/f3 >&2
    """
    inside = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "bash", "-c", script],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert inside.stderr == FILES[b"f3"]
    until(lambda: is_free(disk))
