"""The command `nopull` as a process of its own, where it can mount, and taking away what it mounted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from chunk_store.keeper_client import KEEPER
from erofs_fs.errors import ErofsMissing
from erofs_fs.mount_table import mount_table
from erofs_fs.probe import probe
from launch import mounts
from launch.kernel_mounts.keeper_start import end_keeper
from launch.mountpoint import detach

CHECKOUT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(CHECKOUT / "nopull.py")]


def nopull(
    *words: str | Path, timeout: float = 100.0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True, text=True, errors="surrogateescape", timeout=timeout, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip


def call(*words: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a program that must succeed prints."""
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stderr[-2000:])
    return done.stdout


def output_of(*words: str | Path) -> str:
    """What a call of `nopull` that must succeed prints."""
    return call(*COMMAND, *words)


def able(folder: Path, ask: Callable[[Path], None] = probe) -> Path:
    """*folder*, if images can be mounted from there; else the asking test is skipped with the reason."""
    try:
        ask(folder)
    except ErofsMissing as error:
        pytest.skip(f"{error} (the place of these tests is chosen with TMPDIR)")
    return folder


def clear(base: Path, root: Path) -> None:
    """Take away what is mounted below *base*, and end who works for the state root *root*."""
    for entry in reversed(mount_table()):
        if entry.mountpoint.is_relative_to(base):
            detach(entry.mountpoint, lazy=True)
    for record in mounts.records(root):
        if mounts.server_lives(record):
            os.kill(record.server, signal.SIGKILL)
    if (root / KEEPER).exists():
        end_keeper(root)


def await_last_writer(base: Path) -> None:
    """Return when no process of ours works below *base*: one whose mount or command is gone may still write
    there, and a directory that is removed meanwhile is left.
    """
    deadline = time.monotonic() + 20
    while writers := [pid for pid in Path("/proc").glob("[0-9]*") if _logs_below(pid, base)]:
        assert time.monotonic() < deadline, f"{writers} work below {base}"
        time.sleep(0.02)


def _logs_below(process: Path, base: Path) -> bool:
    try:
        return (process / "fd" / "2").readlink().is_relative_to(base)
    except OSError:
        return False
