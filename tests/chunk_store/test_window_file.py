"""Window files for mounts: reserved before they are held, and whether something holds them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunk_store import window_file
from chunk_store.window_file import Removal, WindowDirectory, is_held

ID = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture
def directory(tmp_path: Path) -> WindowDirectory:
    return WindowDirectory(tmp_path)


def path_of(directory: WindowDirectory, window_id: str) -> Path:
    return directory.path / window_id[:2] / window_id


def test_reserving_makes_an_empty_file_where_there_is_none(directory: WindowDirectory) -> None:
    directory.reserve([ID, OTHER])
    assert [directory.size(name) for name in (ID, OTHER)] == [0, 0]
    assert path_of(directory, ID).stat().st_mode & 0o777 == 0o600


def test_reserving_leaves_what_is_there(directory: WindowDirectory) -> None:
    directory.reserve([ID])
    path = path_of(directory, ID)
    path.write_bytes(b"prefix")
    before = path.stat()
    directory.reserve([ID])
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, 6, before.st_mtime_ns)


def test_reserving_puts_a_file_where_a_link_was(directory: WindowDirectory, tmp_path: Path) -> None:
    path = path_of(directory, ID)
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    directory.reserve([ID])
    assert not path.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_a_window_is_held_while_something_else_has_it_open(directory: WindowDirectory, flags: int) -> None:
    directory.reserve([ID])
    fd = os.open(path_of(directory, ID), flags)
    try:
        assert not is_held(fd)
        other = os.open(path_of(directory, ID), os.O_RDONLY)
        assert is_held(fd)
        os.close(other)
        assert not is_held(fd)
    finally:
        os.close(fd)


_LEASE_HOLDER = (
    "import fcntl, os, signal, sys\n"
    "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
    "fd = os.open(sys.argv[1], os.O_RDWR)\n"
    "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
    "print(flush=True)\n"
    "sys.stdin.read()\n"
)


@contextmanager
def leased(path: Path, *, seconds: float | None = None) -> Iterator[None]:
    """Another process has the lease of the file, as in the middle of `is_held`; for *seconds* at most."""
    command = [sys.executable, "-c", _LEASE_HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdout.readline()
        ending = threading.Timer(seconds or 60, holder.kill)
        ending.start()
        try:
            yield
        finally:
            ending.cancel()
            holder.kill()


def test_a_window_that_another_process_asks_about_is_read_and_written_a_moment_later(
    directory: WindowDirectory,
) -> None:
    directory.reserve([ID])
    with leased(path_of(directory, ID), seconds=0.2):
        fd = directory.open_read(ID, 0)
    assert fd is not None
    os.close(fd)
    with leased(path_of(directory, ID), seconds=0.2):
        locked = directory.try_lock(ID, 1)
    assert locked is not None
    locked.close()


def test_nobody_waits_long_for_whoever_does_not_get_on_with_asking(
    directory: WindowDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_file, "_LEASE_SECONDS", 0.05)
    directory.reserve([ID])
    with leased(path_of(directory, ID)):
        assert directory.remove(ID) is Removal.HELD
        with pytest.raises(BlockingIOError):
            directory.try_lock(ID, 1)


def test_a_window_takes_more_pieces_than_one_call_does(directory: WindowDirectory) -> None:
    pieces = [b"%d;" % number * (number % 7) for number in range(5000)]
    whole = b"".join(pieces)
    locked = directory.try_lock(ID, 3 + len(whole))
    assert locked is not None
    try:
        locked.write(0, [b"abc"])
        locked.write(3, pieces)
    finally:
        locked.close()
    assert path_of(directory, ID).read_bytes() == b"abc" + whole


def test_asking_does_no_harm_to_whoever_opens_the_file_meanwhile(directory: WindowDirectory) -> None:
    """Its signal, if it comes, must not be the one that kills."""
    directory.reserve([ID])
    program = (
        "import os, sys\n"
        "from chunk_store.window_file import is_held\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "print(flush=True)\n"
        "answers = {is_held(fd) for _ in range(20_000)}\n"
        "print(sorted(answers))\n"
    )
    path = path_of(directory, ID)
    asking = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    asking.stdout.readline()
    while asking.poll() is None:
        os.close(os.open(path, os.O_RDONLY))
    assert asking.returncode not in (-signal.SIGIO, 1)
    assert asking.stdout.read().strip() in ("[False, True]", "[True]", "[False]")
    asking.stdout.close()
