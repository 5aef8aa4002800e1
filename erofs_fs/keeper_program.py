"""What becomes a keeper, and starting it: with what the one before held, until it serves.

Its own side of this is `keeper_life`.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from erofs_fs import handover
from erofs_fs.descriptors import require_descriptors
from erofs_fs.errors import KeeperFailed
from erofs_fs.keeper_words import ALREADY, READY

_READY_SECONDS: Final = 5.0


class KeeperProgram(NamedTuple):
    """What becomes a keeper, and the file that its last words go to."""

    command: list[str]
    log: Path


def start_keeper(
    program: KeeperProgram, descriptors: Mapping[str, int], environment: Mapping[str, str] | None = None
) -> int:
    """Start a keeper with *descriptors* of the one before; its process id once it serves, 0 if there is one
    already.

    *environment*: by default this process's, without its service manager, who knows nothing of keepers.

    Raises:
        KeeperFailed: it ended, does not come up, or may have too few descriptors.
    """
    require_descriptors()  # said to whoever asks for a mount; the keeper's own words go to the log
    errors = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        if environment is None:
            environment = handover.unmanaged(os.environ)
        pid = handover.spawn_with(program.command, descriptors, environment, output=writing, errors=errors)
    except OSError as error:
        os.close(reading)
        raise KeeperFailed(f"starting a keeper: {error.strerror}: {program.command[0]}") from error
    finally:
        os.close(writing)
        os.close(errors)
    try:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        said = os.read(reading, 64) if poll.poll(1000 * _READY_SECONDS) else b"nothing"
    finally:
        os.close(reading)
    if said == READY:
        return pid
    if said:
        raise KeeperFailed(f"the keeper, process {pid}, does not come up")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == ALREADY:
        return 0
    raise KeeperFailed(f"the keeper ended with {code} before it served; its words are in {program.log}")
