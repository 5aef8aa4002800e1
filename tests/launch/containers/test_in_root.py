"""Paths of an image are resolved inside it, whatever its symbolic links say."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.containers.in_root import (
    READ_LIMIT,
    check_command,
    make_directory_in_root,
    mode_in_root,
    read_in_root,
)
from launch.containers.run_errors import CommandNotExecutable, CommandNotFound, RunError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"the host's")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc/passwd").write_bytes(b"inside")
    (root / "secret").write_bytes(b"the image's")
    (root / "bin").symlink_to("usr/bin")
    return root


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    descriptor = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("target", ["/secret", "../../../secret", "/../secret"])
def test_a_link_never_leads_out_of_the_image(tree: Path, root: int, target: str) -> None:
    (tree / "etc/link").symlink_to(target)
    assert read_in_root(root, b"/etc/link") == b"the image's"


def test_a_magic_link_is_not_followed(tree: Path, root: int) -> None:
    (tree / "proc").symlink_to("/proc")
    assert read_in_root(root, b"/proc/self/status") == b""


def test_what_is_absent_reads_as_empty(tree: Path, root: int) -> None:
    (tree / "etc/loop").symlink_to("loop")
    for path in (b"/etc/group", b"/etc/passwd/below", b"/etc/loop"):
        assert read_in_root(root, path) == b""
        assert mode_in_root(root, path) is None


def test_a_fifo_or_directory_in_the_place_of_a_file_does_not_block(tree: Path, root: int) -> None:
    os.mkfifo(tree / "etc/fifo")
    assert read_in_root(root, b"/etc/fifo") == b""
    assert read_in_root(root, b"/etc") == b""


def test_a_huge_account_file_is_refused(tree: Path, root: int) -> None:
    with (tree / "etc/group").open("wb") as file:
        file.truncate(READ_LIMIT + 1)
    with pytest.raises(RunError, match="/etc/group"):
        read_in_root(root, b"/etc/group")


def test_directories_are_made_inside_through_links(tree: Path, root: int, tmp_path: Path) -> None:
    (tree / "srv").symlink_to("/var/lib")
    (tree / "var/lib").mkdir(parents=True)
    make_directory_in_root(root, b"/srv/app/../app/run/")
    assert (tree / "var/lib/app/run").is_dir()
    make_directory_in_root(root, b"/../../outside")
    assert (tree / "outside").is_dir()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("path", [b"/etc/passwd", b"/etc/passwd/below", b"/dangling"])
def test_a_working_directory_that_cannot_be_is_refused(tree: Path, root: int, path: bytes) -> None:
    (tree / "dangling").symlink_to("/nowhere/at/all")
    with pytest.raises(RunError, match=f"working directory {path.decode()}"):
        make_directory_in_root(root, path)


@pytest.fixture
def programs(tree: Path) -> Path:
    for name, mode in (("good", 0o755), ("plain", 0o644)):
        (tree / "usr/bin" / name).write_bytes(b"#!")
        (tree / "usr/bin" / name).chmod(mode)
    (tree / "usr/bin/link").symlink_to("/bin/good")
    (tree / "usr/bin/folder").mkdir()
    return tree


@pytest.mark.parametrize(
    ("command", "directory"),
    [
        ("good", "/"),
        ("link", "/"),
        ("/bin/good", "/"),
        ("./good", "/usr/bin"),
        ("bin/link", "/"),
        ("/proc/self/exe", "/"),
        ("/dev/fd/3", "/"),
    ],
)
def test_a_command_the_container_will_find_passes(
    programs: Path, root: int, command: str, directory: str
) -> None:
    check_command(root, command, "/nowhere:/bin", directory)


@pytest.mark.parametrize("command", ["absent", "/bin/absent", "./good", "/usr/bin/good/below"])
def test_a_command_that_is_nowhere_is_not_found(programs: Path, root: int, command: str) -> None:
    with pytest.raises(CommandNotFound, match=command):
        check_command(root, command, "/nowhere:/bin", "/")


@pytest.mark.parametrize("command", ["plain", "/usr/bin/plain", "/usr/bin", "folder"])
def test_a_command_without_execute_permission_is_not_executable(
    programs: Path, root: int, command: str
) -> None:
    with pytest.raises(CommandNotExecutable, match=command):
        check_command(root, command, "/bin", "/")


def test_made_directories_are_open_to_all(tree: Path, root: int) -> None:
    former = os.umask(0o022)
    try:
        make_directory_in_root(root, b"/new")
    finally:
        os.umask(former)
    assert stat.S_IMODE((tree / "new").stat().st_mode) == 0o755
