"""A runtime is found or its package named; what it complains about becomes an exit code."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from launch.containers.run_errors import (
    CommandNotExecutable,
    CommandNotFound,
    RunError,
    RuntimeFailed,
    RuntimeMissing,
)
from launch.containers.runtime import find_runtime, last_error, run_container, start_failure


def executable(path: Path) -> Path:
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_runc_is_taken_before_crun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/nonexistent:{tmp_path}")
    crun = executable(tmp_path / "crun")
    assert find_runtime(None) == crun
    runc = executable(tmp_path / "runc")
    assert find_runtime(None) == runc
    assert find_runtime("crun") == crun
    assert find_runtime(str(crun)) == crun


def test_a_machine_without_a_runtime_is_told_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "runc").write_bytes(b"not executable")
    with pytest.raises(RuntimeMissing, match="install the package runc"):
        find_runtime(None)
    with pytest.raises(RuntimeMissing, match="/absent/runc"):
        find_runtime("/absent/runc")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('runc run failed: unable to start: exec: "x": executable file not found in $PATH: unknown', 127),
        ('runc run failed: unable to start container process: exec: "/x": no such file or directory', 127),
        ("runc run failed: unable to start container process: exec /x: no such file or directory", 127),
        ("executable file `x` not found in $PATH: No such file or directory", 127),
        ('runc run failed: unable to start container process: exec: "/x": permission denied', 126),
        ('runc run failed: unable to start container process: exec: "/etc": is a directory', 126),
        ("runc run failed: unable to start container process: exec /x: exec format error", 126),
        ("exec container process `/x`: Exec format error", 126),
        ("runc run failed: unable to start container process: can't get final child's PID", 125),
        ("open `/x/rootfs`: No such file or directory", 125),
    ],
)
def test_a_runtimes_complaint_becomes_dockers_exit_code(said: str, kind: int) -> None:
    classes: dict[int, type[RunError]] = {125: RuntimeFailed, 126: CommandNotExecutable, 127: CommandNotFound}
    error = start_failure("runc", said)
    assert type(error) is classes[kind]
    assert "runc run failed" not in str(error)


def test_the_last_error_of_the_log_says_why(tmp_path: Path) -> None:
    log = tmp_path / "runtime.log"
    assert last_error(log) is None
    entries = [
        {"level": "error", "msg": "the reason"},
        {"level": "warning", "msg": "not it"},
        {"level": "error", "msg": "os: process already finished"},
    ]
    log.write_text("\n".join([*map(json.dumps, entries), "not json", "[1]", ""]))
    assert last_error(log) == "the reason"


FILLS_THE_DISK = """#!/bin/sh
while [ "$1" != --log ]; do shift; done
cat /dev/zero >"${2%/*}/full" 2>&-
printf '{"level":"error","msg":"no room to begin"}\\n' >>"$2"
exit 1
"""


@pytest.mark.system
def test_a_runtime_that_fails_for_want_of_room_is_not_taken_for_the_container(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    runtime = executable(tmp_path / "runtime")
    runtime.write_text(FILLS_THE_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", disk], check=True)
    request.addfinalizer(lambda: subprocess.run(["umount", disk], check=True))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    request.addfinalizer(lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before))
    with pytest.raises(RuntimeFailed, match="no room to begin"):
        run_container(runtime, disk, "name", attach_input=False)
