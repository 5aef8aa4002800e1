"""Ask the keeper of a store: one question at its socket, one answer, and descriptors that come with it.

What may be asked is the keeper's business (`erofs_fs.keeper`). Standard library only: the keeper imports the
names below.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunk_store.short_name import short_name

KEEPER = "keeper"  # directory of the keeper's own files below the store's root
SOCKET = "socket"
LOCK = "lock"  # held by the keeper while there is one
LONG = "long"  # says of an answer that it is in the last of its descriptors, a file in memory

ASK_SECONDS = 5.0
_ANSWER_LIMIT = 1 << 16  # bytes
_MOST_DESCRIPTORS = 8  # with one message
_LOOK_SECONDS = 0.01
_ABSENT = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.EACCES, errno.EPERM})


def ask_keeper(root: Path, question: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
    """What the keeper of the store below *root* answers, and the descriptors that came with it, which are the
    caller's; None if no keeper listens, or it does not answer in time.
    """
    with suppress(TimeoutError):
        return ask_within(root, question, ASK_SECONDS)
    return None


def ask_within(
    root: Path, question: Mapping[str, Any], seconds: float
) -> tuple[dict[str, Any], list[int]] | None:
    """As `ask_keeper`, but that a silent keeper is told from none.

    Raises:
        TimeoutError: a keeper listens and has not answered within *seconds*.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(seconds)
        try:
            _connect(connection, root / KEEPER / SOCKET, time.monotonic() + seconds)
            connection.send(json.dumps(question).encode())
            words, descriptors = receive(connection, _ANSWER_LIMIT)
            answer = json.loads(words)
            if LONG in answer:
                answer = _read_all(descriptors.pop())
        except TimeoutError:
            raise
        except OSError as error:
            if error.errno in _ABSENT or isinstance(error, ConnectionError):
                return None
            raise
        except ValueError:
            return None
        if descriptors:
            with suppress(OSError):
                connection.recv(1)  # its end: the keeper has let go of what it gave away
    return answer, descriptors


def _read_all(descriptor: int) -> Any:
    with open(descriptor, "rb") as file:
        file.seek(0)
        return json.loads(file.read())


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    while True:
        try:
            with short_name(path) as name:
                connection.connect(name)
        except BlockingIOError as error:
            # More wait to be accepted than the keeper lets wait; with a timeout the kernel does not wait.
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the keeper accepts nobody") from error
            time.sleep(_LOOK_SECONDS)
        else:
            return


def receive(connection: socket.socket, limit: int) -> tuple[bytes, list[int]]:
    """A message of at most *limit* bytes and the descriptors that came with it, the caller's, closed on exec.

    Not `socket.recv_fds`, which takes flags and ignores them: whoever inherits a keeper's group keeps readers
    waiting for ever.

    Raises:
        OSError: as `recvmsg`.
    """
    found = array("i")
    space = socket.CMSG_SPACE(_MOST_DESCRIPTORS * found.itemsize)
    words, ancillary, _, _ = connection.recvmsg(limit, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) // found.itemsize * found.itemsize])
    return words, list(found)
