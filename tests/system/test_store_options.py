"""`--cache-size` and `--isolate` on the command line: the limit holds, nobody else's windows are used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.launch.published import publish
from tests.support.command import nopull, output_of
from tests.support.images import image_of
from tests.support.trees import file, tree

pytestmark = pytest.mark.system
CONTENT = [Random(number).randbytes(3_000_000) for number in range(4)]
LIMIT = 6_000_000


class Place:
    """A state root, two repositories with the same image, and a mountpoint for each."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.images, self.mountpoints = [], []
        image = image_of(tree(*(file(b"%d" % number, body) for number, body in enumerate(CONTENT))))
        for name in ("one", "two"):
            (base / name).mkdir()
            self.images.append(publish(image, f"oci:{base / name / 'layout'}:v1", base / name).reference)
            self.mountpoints.append(base / name / "mountpoint")
            self.mountpoints[-1].mkdir()

    def mount(self, number: int, *options: str) -> Path:
        place = self.mountpoints[number]
        output_of("mount", self.images[number], place, "--root", self.root, "--driver", "fuse", *options)
        return place

    def read(self, number: int) -> None:
        for name, body in enumerate(CONTENT):
            assert (self.mountpoints[number] / str(name)).read_bytes() == body

    def fetched(self, number: int) -> int:
        found = json.loads(output_of("explain", self.mountpoints[number], "--root", self.root, "--json"))
        progress = found["progress"]
        return sum(int(progress[name]["compressed_bytes"]) for name in ("demand", "hot", "background"))

    def listed(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(output_of("cache", "ls", "--root", self.root, "--json"))
        return found

    def occupied(self) -> int:
        return sum(path.stat().st_size for path in self.root.glob("windows/*/*"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for mountpoint in made.mountpoints:
        if mountpoint.is_mount():
            output_of("umount", mountpoint, "--root", made.root)


def test_images_of_two_repositories_share_what_is_local(place: Place) -> None:
    place.mount(0, "--no-background")
    place.read(0)
    place.mount(1, "--no-background")
    place.read(1)
    assert place.fetched(1) == 0


def test_an_isolated_mount_uses_nothing_of_others_and_gives_them_nothing(place: Place) -> None:
    place.mount(0, "--no-background")
    place.read(0)
    place.mount(1, "--no-background", "--isolate")
    place.read(1)
    assert place.fetched(1) == place.fetched(0) >= sum(map(len, CONTENT))
    output_of("umount", place.mountpoints[1], "--root", place.root)
    isolated = place.listed()["isolated"]
    assert isinstance(isolated, list) and len(isolated) == 1
    assert isolated[0]["complete_bytes"] >= sum(map(len, CONTENT))
    place.mount(1, "--no-background", "--isolate")
    place.read(1)
    assert place.fetched(1) == 0


def test_a_mount_keeps_to_its_limit_and_reads_right(place: Place) -> None:
    place.mount(0, "--cache-size", str(LIMIT))
    for _ in range(2):
        place.read(0)
        assert 0 < place.occupied() <= LIMIT


def test_a_cache_smaller_than_the_image_is_no_place_for_a_kernel_mount(place: Place) -> None:
    place.mount(0, "--cache-size", str(LIMIT), "--driver", "auto")
    found = json.loads(output_of("explain", place.mountpoints[0], "--root", place.root, "--json"))
    assert found["driver"] == "fuse"
    assert "6.0 MB" in found["driver_reason"] and "comes to hold 12.0 MB" in found["driver_reason"]
    place.read(0)


def test_a_size_that_is_none_is_refused(place: Place) -> None:
    ran = nopull("mount", place.images[0], place.mountpoints[0], "--cache-size", "much")
    assert ran.returncode == 2 and "like 500MB" in ran.stderr
