"""A keeper leaves control groups that could stop it: on hosts of every layout of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from erofs_fs.cgroups import leave_bounds

UNLIMITED = "9223372036854771712"  # what memory.limit_in_bytes shows for none


@dataclass
class Host:
    """A made-up /proc/self and the trees of control groups it speaks of."""

    base: Path

    def __post_init__(self) -> None:
        self._table: list[str] = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw"]
        self._own: list[str] = []
        self._tops: dict[str, Path] = {}

    def hierarchy(self, kind: str, controllers: str, own: str, *, root: str = "/") -> None:
        """*kind* of hierarchy, in which we are in *own*."""
        top = self.base / (controllers or "unified")
        self._tops[controllers] = top
        (top / own.lstrip("/")).mkdir(parents=True)
        (top / "cgroup.procs").touch()
        options = f"rw,{controllers}" if controllers else "rw"
        written = str(top).replace(" ", r"\040")
        self._table.append(f"{len(self._table)} 22 0:5 {root} {written} rw,nosuid - {kind} cgroup {options}")
        self._own.append(f"{len(self._own)}:{controllers}:{own}")

    def group(self, controllers: str, path: str, **files: str) -> None:
        """A group and files of it; two underscores stand for a dot."""
        place = self._tops[controllers] / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in ("cgroup__procs", *files):
            (place / name.replace("__", ".")).write_text(files.get(name, ""))

    def leave(self) -> list[str]:
        for name, lines in (("cgroup", self._own), ("mountinfo", self._table)):
            (self.base / name).write_text("\n".join(lines) + "\n")
        return leave_bounds(self.base / "cgroup", self.base / "mountinfo")

    def moved_to(self, controllers: str) -> list[str]:
        """The groups that we were moved to."""
        top = self._tops[controllers]
        return [
            f"/{path.parent.relative_to(top)}".replace("/.", "/")
            for path in top.rglob("cgroup.procs")
            if path.is_file() and path.read_text() == "0"
        ]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_group_of_the_old_kind_that_can_be_frozen_is_left_for_the_top(host: Host) -> None:
    host.hierarchy("cgroup", "freezer", "/user/shell")
    host.group("freezer", "/user/shell")
    assert host.leave() == [str(host.base / "freezer/user/shell")]
    assert host.moved_to("freezer") == ["/"]


def test_a_limit_of_memory_of_the_old_kind_is_left_for_the_nearest_group_without(host: Host) -> None:
    host.hierarchy("cgroup", "memory", "/user/limited/shell")
    host.group("memory", "/user", memory__limit_in_bytes=UNLIMITED)
    host.group("memory", "/user/limited", memory__limit_in_bytes="1000000")
    host.group("memory", "/user/limited/shell", memory__limit_in_bytes=UNLIMITED)
    host.leave()
    assert host.moved_to("memory") == ["/user"]


def test_a_hierarchy_is_left_wherever_it_is_mounted(tmp_path: Path) -> None:
    host = Host(tmp_path / "a place")
    host.hierarchy("cgroup", "freezer", "/shell")
    assert host.leave() == [str(host.base / "freezer/shell")]
    assert host.moved_to("freezer") == ["/"]


def test_where_nothing_bounds_us_we_stay(host: Host) -> None:
    host.hierarchy("cgroup", "memory", "/user/shell")
    host.group("memory", "/user", memory__limit_in_bytes=UNLIMITED)
    host.group("memory", "/user/shell", memory__limit_in_bytes=UNLIMITED)
    host.hierarchy("cgroup", "freezer", "/")
    host.hierarchy("cgroup", "cpu,cpuacct", "/user/shell")
    host.group("cpu,cpuacct", "/user/shell")
    assert host.leave() == []


def test_of_the_new_kind_every_group_can_be_frozen_but_the_top(host: Host) -> None:
    host.hierarchy("cgroup2", "", "/system.slice/shell.scope")
    host.group("", "/system.slice", cgroup__freeze="0", memory__max="max")
    host.group("", "/system.slice/shell.scope", cgroup__freeze="0", memory__max="max")
    assert host.leave() == [str(host.base / "unified/system.slice/shell.scope")]
    assert host.moved_to("") == ["/"]


def test_where_the_top_takes_nobody_a_limit_of_memory_is_left_at_least(host: Host) -> None:
    """As in a container that has its own view of the tree."""
    host.hierarchy("cgroup2", "", "/one/two")
    host.group("", "/one", cgroup__freeze="0", memory__max="max")
    host.group("", "/one/two", cgroup__freeze="0", memory__max="1000000")
    (host.base / "unified/cgroup.procs").unlink()
    (host.base / "unified/cgroup.procs").mkdir()
    assert host.leave() == [str(host.base / "unified/one/two")]
    assert host.moved_to("") == ["/one"]


def test_what_may_not_be_done_is_not_and_is_no_error(host: Host) -> None:
    host.hierarchy("cgroup", "freezer", "/user")
    (host.base / "freezer/cgroup.procs").unlink()
    (host.base / "freezer/cgroup.procs").mkdir()
    assert host.leave() == []


def test_a_hierarchy_of_which_only_a_part_is_mounted_is_left_alone(host: Host) -> None:
    host.hierarchy("cgroup", "freezer", "/docker/abc/shell", root="/docker/abc")
    assert host.leave() == []
