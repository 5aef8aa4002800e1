"""A container's directory belongs to a living process, and to whoever comes next once that is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.containers import containers
from launch.containers.run_errors import NameTaken, RunError

RUNTIME = Path("/bin/true")

OWNER = """
import sys
from pathlib import Path
from launch.containers import containers
made = containers.create(Path(sys.argv[1]), "owned", Path("/bin/true"))
(made.path / "upper" / "file").write_bytes(b"x")
print("made", flush=True)
sys.stdin.read()
"""


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "containers").iterdir())


def owner(root: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"made\n"
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def test_a_removed_container_leaves_nothing(tmp_path: Path) -> None:
    made = containers.create(tmp_path, None, RUNTIME)
    (made.path / "upper" / "dir").mkdir()
    assert names(tmp_path) == [made.name]
    made.remove()
    assert names(tmp_path) == []


def test_a_container_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "PARTS", (*containers.PARTS, "absent/part"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError, match="absent/part"):
        containers.create(tmp_path, None, RUNTIME)
    assert names(tmp_path) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_containers_without_a_name_never_collide(tmp_path: Path) -> None:
    made = [containers.create(tmp_path, None, RUNTIME) for _ in range(3)]
    assert len({one.name for one in made}) == 3
    for one in made:
        one.remove()


def test_a_living_owners_container_stays_and_its_name_is_taken(tmp_path: Path) -> None:
    child = owner(tmp_path)
    try:
        assert containers.remove_stale(tmp_path) == 0
        with pytest.raises(NameTaken, match="owned"):
            containers.create(tmp_path, "owned", RUNTIME)
        assert names(tmp_path) == ["owned"]
    finally:
        end(child)


def test_a_dead_owners_container_is_removed(tmp_path: Path) -> None:
    end(owner(tmp_path))
    assert names(tmp_path) == ["owned"]
    assert containers.remove_stale(tmp_path) == 1
    assert names(tmp_path) == []
    assert containers.remove_stale(tmp_path) == 0


def test_our_own_containers_are_not_stale(tmp_path: Path) -> None:
    made = containers.create(tmp_path, "mine", RUNTIME)
    assert containers.remove_stale(tmp_path) == 0
    made.remove()


def test_a_container_that_is_being_made_stays_although_it_is_not_locked_yet(tmp_path: Path) -> None:
    making = tmp_path / "containers" / ".new-1"
    making.mkdir(parents=True)
    (making / "owner.json").touch()
    assert containers.remove_stale(tmp_path) == 0
    assert names(tmp_path) == [".new-1"]
    os.utime(making, (0, 0))
    assert containers.remove_stale(tmp_path) == 1
    assert names(tmp_path) == []


def test_a_half_made_or_half_removed_directory_goes_when_it_has_settled(tmp_path: Path) -> None:
    half = tmp_path / "containers" / ".new-x"
    (half / "upper").mkdir(parents=True)
    containers.remove_stale(tmp_path)
    assert names(tmp_path) == [".new-x"]
    long_ago = time.time() - 2 * containers.SETTLING_SECONDS
    os.utime(half, (long_ago, long_ago))
    containers.remove_stale(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a b", "x" * 65, "ü"])
def test_a_name_that_cannot_be_a_directory_or_cgroup_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="cannot name a container"):
        containers.create(tmp_path, name, RUNTIME)
    assert not (tmp_path / "containers").exists()
