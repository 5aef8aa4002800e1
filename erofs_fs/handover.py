"""What a keeper must not take with it when it ends: descriptors that go to its successor, by name.

The protocol is systemd's (sd_listen_fds(3), sd_notify(3) with FDSTORE=1), used in all three ways: systemd
keeps descriptors over a restart of the service, a keeper that starts itself anew keeps them over `execve`,
and a filler whose keeper was killed starts the next one with those it was given.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final

FIRST: Final = 3  # SD_LISTEN_FDS_START

GROUP, JOURNAL, DOOR = "group", "journal", "door"
STORED: Final = (GROUP, JOURNAL, DOOR)  # who holds these keeps readers waiting while there is no keeper
LOCK, REQUESTS, FILLER = "lock", "requests", "filler"  # only from a keeper that makes room for the next

NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"  # set for what a service manager starts
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_WHOEVER: Final = "0"  # instead of a process id, which who starts a process does not know before


def received(environment: MutableMapping[str, str]) -> dict[str, int]:
    """The descriptors this process was started with, by name, closed on exec from now on; of equal names the
    last. Their variables are taken out of *environment*.
    """
    pid, count, names = (environment.pop(name, "") for name in _VARIABLES)
    if pid not in (str(os.getpid()), _WHOEVER) or not count.isdecimal():
        return {}
    found: dict[str, int] = {}
    for place, name in enumerate(names.split(":")[: int(count)]):
        os.set_inheritable(FIRST + place, False)
        with suppress(OSError):
            os.close(found.get(name, -1))
        found[name] = FIRST + place
    return found


def reserve(numbers: list[int], held: Mapping[str, int]) -> dict[str, int]:
    """Take these descriptor numbers, so that no access gets one of them: the answer to it would go to
    another, who got the same number from the keeper before and waits still. What is *held* at one of them is
    moved; where all of it is then. Nothing else may be open yet that is needed.
    """
    moved = {}
    for name, descriptor in held.items():
        place = descriptor
        while place in numbers:  # what it passes is overwritten below
            place = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST)
        moved[name] = place
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for number in numbers:
        if number != null:
            os.dup2(null, number, inheritable=False)
    if null not in numbers:
        os.close(null)
    return moved


def exec_with(command: list[str], descriptors: Mapping[str, int], environment: Mapping[str, str]) -> None:
    """Become *command*, which finds *descriptors* with `received`. Returns only by an exception.

    Raises:
        OSError: it cannot be executed.
    """
    for place, descriptor in enumerate(_moved_up(descriptors)):
        os.dup2(descriptor, FIRST + place)
    os.execve(command[0], command, _announcing(descriptors, environment, str(os.getpid())))


def spawn_with(
    command: list[str],
    descriptors: Mapping[str, int],
    environment: Mapping[str, str],
    *,
    output: int,
    errors: int,
) -> int:
    """Start *command*, which finds *descriptors* with `received`; its process id.

    It has a session of its own, reads nothing, and writes to *output* and *errors*.

    Raises:
        OSError: it cannot be executed.
    """
    moved = _moved_up(descriptors)
    try:
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, errors, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, one, FIRST + place) for place, one in enumerate(moved)]
        announcing = _announcing(descriptors, environment, _WHOEVER)
        return os.posix_spawn(command[0], command, announcing, file_actions=actions, setsid=True)
    finally:
        for descriptor in moved:
            os.close(descriptor)


def _moved_up(descriptors: Mapping[str, int]) -> list[int]:
    """Copies of *descriptors* above the places they are to have, which others of them may have now."""
    above = FIRST + len(descriptors)
    return [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, above) for one in descriptors.values()]


def _announcing(descriptors: Mapping[str, int], environment: Mapping[str, str], pid: str) -> dict[str, str]:
    values = (pid, str(len(descriptors)), ":".join(descriptors))
    return {**environment, **dict(zip(_VARIABLES, values, strict=True))}


def memory(content: bytes) -> int:
    """A descriptor of a file in memory that holds *content*."""
    descriptor = os.memfd_create("handover", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    return descriptor


def unmanaged(environment: Mapping[str, str]) -> dict[str, str]:
    """*environment* for a process that is not its service manager's, whoever started this one."""
    return {name: value for name, value in environment.items() if name != NOTIFY_SOCKET}


def notify(environment: Mapping[str, str], words: str, descriptors: Mapping[str, int] | None = None) -> bool:
    """Say *words* to the service manager, if there is one; whether that was done. It keeps *descriptors* in
    place of what it has of their names: for a group that nobody reads any more, readers would wait.
    """
    address = environment.get(NOTIFY_SOCKET, "")
    if not address.startswith(("/", "@")):
        return False
    messages: list[tuple[str, list[int]]] = [(words, [])] if words else []
    for name, one in (descriptors or {}).items():
        messages += [(f"FDSTOREREMOVE=1\nFDNAME={name}", []), (f"FDSTORE=1\nFDNAME={name}", [one])]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.connect("\0" + address[1:] if address[0] == "@" else address)
            for text, attached in messages:
                socket.send_fds(connection, [text.encode()], attached)
    except OSError:
        return False
    return True
