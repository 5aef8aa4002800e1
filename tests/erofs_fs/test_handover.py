"""Descriptors go from a keeper to its successor, whatever numbers they have and whoever hands them over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from erofs_fs import handover

CHECKOUT = Path(__file__).parents[2]
NAMES = ("one", "two", "three")
# What a successor finds, as JSON; CHANGES is run before it looks.
SUCCESSOR = """
import fcntl, json, os
CHANGES
from erofs_fs import handover
found = handover.received(os.environ)
print(json.dumps({
    "content": {name: os.pread(one, 100, 0).decode() for name, one in found.items()},
    "number": found,
    "inherited": [name for name, one in found.items() if not fcntl.fcntl(one, fcntl.F_GETFD) & 1],
    "variables": [name for name in os.environ if name.startswith("LISTEN_")],
    "open": [one for one in range(100) if os.path.lexists(f"/proc/self/fd/{one}")],
    "stdin": os.readlink("/proc/self/fd/0"),
    "session": os.getsid(0) == os.getpid(),
}))
"""
PREDECESSOR = """
import fcntl, os, sys
from erofs_fs import handover
numbers = dict(zip({names}, {numbers}))
for name, number in numbers.items():
    made = handover.memory(name.encode())
    moved = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(made)
    numbers[name] = moved
wanted = dict(zip({names}, {numbers}))
for name, number in wanted.items():
    os.dup2(numbers[name], number, inheritable=False)
    os.close(numbers[name])
command = [sys.executable, "-S", "-c", {successor!r}]
if {how!r} == "exec":
    handover.exec_with(command, wanted, os.environ)
else:
    reading, writing = os.pipe()
    pid = handover.spawn_with(command, wanted, os.environ, output=writing, errors=2)
    os.close(writing)
    os.waitpid(pid, 0)
    os.write(1, os.read(reading, 65536))
"""


def handed_over(
    how: str, numbers: Sequence[int], *, names: Sequence[str] = NAMES, changes: str = ""
) -> dict[str, object]:
    """What becomes of memory files named *names* that a process has at *numbers*."""
    program = PREDECESSOR.format(
        names=list(names), numbers=list(numbers), how=how, successor=SUCCESSOR.replace("CHANGES", changes)
    )
    found: dict[str, object] = json.loads(said_by(program))
    return found


def said_by(program: str) -> str:
    """What a process without site-packages prints that runs *program*."""
    words = [sys.executable, "-S", "-c", program]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("numbers", [(3, 4, 5), (4, 5, 3), (40, 41, 42)])
@pytest.mark.parametrize("how", ["exec", "spawn"])
def test_each_name_leads_to_what_it_led_to_before(how: str, numbers: tuple[int, ...]) -> None:
    found = handed_over(how, numbers)
    assert found["content"] == {name: name for name in NAMES}
    assert found["number"] == {"one": 3, "two": 4, "three": 5}
    assert found["inherited"] == [] and found["variables"] == []
    assert found["open"] == [0, 1, 2, 3, 4, 5]  # and nothing else came along


def test_who_is_spawned_has_its_own_session_and_reads_nothing() -> None:
    found = handed_over("spawn", (3, 4, 5))
    assert (found["session"], found["stdin"]) == (True, os.devnull)


def test_of_equal_names_the_last_counts_and_the_others_are_closed() -> None:
    """A service manager keeps what it was given, and what it is given again under the same name, too."""
    changes = "os.environ['LISTEN_FDNAMES'] = 'same:two:same'"
    found = handed_over("exec", (3, 4, 5), changes=changes)
    assert found["content"] == {"same": "three", "two": "two"}
    assert found["open"] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    "changes",
    [
        "os.environ['LISTEN_PID'] = '1'",
        "del os.environ['LISTEN_PID']",
        "os.environ['LISTEN_FDS'] = '-1'",
        "os.environ['LISTEN_FDS'] = 'three'",
        "os.environ['LISTEN_FDS'] = ''",
    ],
)
def test_what_is_said_to_another_or_is_no_number_is_not_believed(changes: str) -> None:
    found = handed_over("exec", (3, 4, 5), changes=changes)
    assert found["content"] == {}
    assert found["variables"] == []  # nor passed on


def test_a_program_that_is_not_there_is_an_error_and_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is wanted
    made = handover.memory(b"")
    try:
        with pytest.raises(FileNotFoundError):
            handover.spawn_with(["/nonexistent/program"], {"one": made}, os.environ, output=1, errors=2)
    finally:
        os.close(made)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_reserved_numbers_go_to_nobody_else() -> None:
    program = (
        "import os; from erofs_fs import handover; handover.reserve([3, 5, 6, 9], {});"
        "print([os.open('/', os.O_RDONLY) for _ in range(4)])"
    )
    assert said_by(program) == "[4, 7, 8, 10]\n"


def test_what_is_held_at_a_reserved_number_is_moved() -> None:
    program = (
        "import os; from erofs_fs import handover;"
        "held = {name: os.open(name, os.O_RDONLY) for name in ('/', '/proc', '/dev')};"  # 3, 4, 5
        "moved = handover.reserve([4, 5, 6, 8], held);"
        "print(moved, [os.path.samestat(os.stat(name), os.fstat(moved[name])) for name in held],"
        " [os.readlink(f'/proc/self/fd/{number}') for number in (4, 5, 6, 8)])"
    )
    assert said_by(program) == f"{{'/': 3, '/proc': 7, '/dev': 9}} {[True] * 3} {['/dev/null'] * 4}\n"


def heard(manager: socket.socket) -> tuple[str, list[bytes]]:
    """A message to a service manager, and the content of the files that came with it."""
    words, descriptors, _, _ = socket.recv_fds(manager, 4096, 4)
    contents = []
    for descriptor in descriptors:
        contents.append(os.pread(descriptor, 100, 0))
        os.close(descriptor)
    return words.decode(), contents


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_service_manager_is_told_and_given_one_descriptor_a_message(tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@nopull-test-{os.getpid()}"
    kept = {name: handover.memory(name.encode()) for name in ("group", "journal")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(20)
        assert handover.notify({"NOTIFY_SOCKET": name}, "READY=1\nMAINPID=7", kept)
        assert heard(manager) == ("READY=1\nMAINPID=7", [])
        for stored in ("group", "journal"):
            assert heard(manager) == (f"FDSTOREREMOVE=1\nFDNAME={stored}", [])
            assert heard(manager) == (f"FDSTORE=1\nFDNAME={stored}", [stored.encode()])
        assert handover.notify({"NOTIFY_SOCKET": name}, "", {"door": kept["group"]})
        assert heard(manager) == ("FDSTOREREMOVE=1\nFDNAME=door", [])
        assert heard(manager) == ("FDSTORE=1\nFDNAME=door", [b"group"])
    for descriptor in kept.values():
        os.close(descriptor)


@pytest.mark.parametrize("address", [None, "", "relative/path", "vsock:2:3", "/nonexistent", "@nobody"])
def test_without_a_service_manager_nothing_is_said(address: str | None) -> None:
    environment = {} if address is None else {"NOTIFY_SOCKET": address}
    assert not handover.notify(environment, "READY=1")


def test_what_a_managed_process_starts_is_not_the_managers() -> None:
    environment = {"NOTIFY_SOCKET": "/run/notify", "PATH": "/bin"}
    assert handover.unmanaged(environment) == {"PATH": "/bin"}
