"""What a keeper's process consists of, and what it refuses to consist of."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from erofs_fs import keeper_life, syscalls
from erofs_fs.errors import KeeperFailed
from erofs_fs.keeper_life import refuse_lazy_home
from launch.kernel_mounts.keeper_start import keeper_program

CHECKOUT = Path(__file__).parents[2]
NETWORK = {"ssl", "_ssl", "http", "urllib.request", "asyncio", "email", "socketserver"}


def loaded_by_a_keeper() -> dict[str, str]:
    """Modules of a process that was started as keepers are, with their files; built in ones have none."""
    command = keeper_program(Path("/store"), Path("/root")).command
    program = command.index("-c") + 1
    listing = (
        "import sys, json; sys.path.append(sys.argv.pop(1)); import erofs_fs.keeper_life;"
        "print(json.dumps({name: getattr(one, '__file__', None) or '' for name, one in sys.modules.items()}))"
    )
    words = [*command[:program], listing, command[program + 1]]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        # `keeper_program` makes the directory of logs.
        directory = "launch.kernel_mounts.keeper_start.state_directory"
        patch.setattr(directory, lambda *_: tmp_path_factory.mktemp("log"))
        return loaded_by_a_keeper()


def ours(modules: dict[str, str]) -> list[Path]:
    return [Path(file) for file in modules.values() if file.startswith(f"{CHECKOUT}/")]


def test_a_keeper_loads_the_standard_library_and_a_few_modules_of_ours(modules: dict[str, str]) -> None:
    foreign = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in foreign} == {"__main__", "rafs", "chunk_store", "erofs_fs"}
    assert not modules.keys() & NETWORK
    assert "site" not in modules and not any("site-packages" in file for file in modules.values())
    assert len(ours(modules)) < 39


def test_a_keeper_loads_nothing_while_it_serves(modules: dict[str, str]) -> None:
    """Its installation may be replaced meanwhile, and what holds it may be frozen."""
    late = [
        f"{path.name}:{statement.lineno}"
        for path in ours(modules)
        for function in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(function, ast.FunctionDef)
        for statement in ast.walk(function)
        if isinstance(statement, ast.Import | ast.ImportFrom)
    ]
    assert late == []


def test_a_keeper_stays_in_memory_and_is_the_last_to_be_killed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(keeper_life, "OOM_SCORE", tmp_path / "oom_score_adj")
    monkeypatch.setattr(syscalls, "lock_memory", lambda: done.append("locked"))
    monkeypatch.setattr(keeper_life, "leave_bounds", lambda: done.append("left"))
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: done.append("first"))
    keeper_life.stay_alive()
    assert (tmp_path / "oom_score_adj").read_text() == "-999"
    assert done == ["left", "locked", "first"]
    # A service manager has put it where it is.
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/manager")
    keeper_life.stay_alive()
    assert done == ["left", "locked", "first", "locked", "first"]


def test_what_a_keeper_may_not_do_for_itself_does_not_keep_it_from_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuse(*_: object) -> None:
        tried.append("once more")
        raise PermissionError

    monkeypatch.setattr(keeper_life, "OOM_SCORE", tmp_path)
    monkeypatch.setattr(syscalls, "lock_memory", refuse)
    monkeypatch.setattr(keeper_life, "leave_bounds", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    keeper_life.stay_alive()
    assert len(tried) == 3


def table_line(path: str, kind: str, source: str) -> str:
    device = os.stat(path).st_dev  # noqa: PTH116
    return f"40 1 {os.major(device)}:{os.minor(device)} / /somewhere ro,relatime - {kind} {source} ro\n"


@pytest.mark.parametrize(
    ("where", "home"),
    [
        ("sys.executable", sys.executable),
        ("os.__file__", os.__file__),
        ("erofs_fs.keeper_life.__file__", str(CHECKOUT / "erofs_fs/keeper_life.py")),
    ],
)
def test_a_keeper_does_not_run_from_what_it_may_have_to_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, home: str
) -> None:
    others = "41 1 254:99 / /other ro - erofs /root/images/abc/localised-2.erofs ro\n"
    table = tmp_path / "mountinfo"
    # Each of the three may lie elsewhere than the others.
    for place in {"sys.executable", "os.__file__", "erofs_fs.keeper_life.__file__"} - {where}:
        monkeypatch.setattr(place, "/proc/version")
    table.write_text(others + table_line(home, "erofs", "/root/images/abc/localised-2.erofs"))
    with pytest.raises(KeeperFailed, match="a keeper cannot run from"):
        refuse_lazy_home(table)


def test_a_keeper_runs_from_every_other_place(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    for line in (
        table_line(sys.executable, "ext4", "/dev/sda1"),
        table_line(sys.executable, "erofs", "/dev/sda1"),
        table_line(sys.executable, "erofs", "/images/all-of-it.erofs"),  # of others, and all there
        table_line("/proc/version", "erofs", "/root/images/abc/localised-2.erofs"),
        "",
    ):
        table.write_text(line)
        refuse_lazy_home(table)
