"""Who comes to a keeper's socket: accepted if it is root or the keeper's own user, heard without waiting.

Each asks one question, as JSON. What the answer is, and who stays, is the keeper's business. Used by one
thread.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunk_store.keeper_client import LONG
from chunk_store.short_name import short_name
from erofs_fs import syscalls
from erofs_fs.handover import memory
from erofs_fs.keeper_words import MESSAGE_BYTES

_CREDENTIALS = struct.Struct("3i")  # struct ucred
_BACKLOG = 64
_MOST_SILENT = 32  # fewer than the descriptors kept for them and others: `descriptors.SPARE`
_READ_BYTES = 1 << 16
_REST_SECONDS = 0.25  # when nobody can be accepted


class Clients:
    """Those that have not been heard yet. `descriptor` is readable when another one comes, `removals` when
    the socket may have been removed; *poll* is told of them and of theirs.
    """

    def __init__(self, path: Path, poll: select.epoll) -> None:
        """Listen at *path*, where nobody else does.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path = path
        self._poll = poll
        self._waiting: dict[int, socket.socket] = {}
        self._rests_until: float | None = None  # nobody is accepted until then
        self._listener = _listening(path)
        poll.register(self._listener, select.EPOLLIN)
        self.removals = syscalls.inotify()
        syscalls.inotify_watch_removal(self.removals, os.fsencode(path.parent))
        poll.register(self.removals, select.EPOLLIN)

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._waiting

    @property
    def descriptor(self) -> int:
        """Of the socket."""
        return self._listener.fileno()

    def listen_again(self) -> None:
        """If the socket was removed, listen at another: nobody finds us, nor may become the next keeper."""
        with suppress(BlockingIOError):
            os.read(self.removals, _READ_BYTES)
        if self._path.exists():
            return
        with suppress(OSError):  # its directory is gone, too
            listener = _listening(self._path)
            if self._rests_until is None:
                self._poll.unregister(self._listener)
            self._rests_until = None
            self._listener.close()
            self._listener = listener
            self._poll.register(listener, select.EPOLLIN)

    def accept(self) -> None:
        """Take in the next one; in place of who has been silent for the longest, if there are too many."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # there is no descriptor for it
            if self._waiting:
                self._drop_oldest()
            else:
                # Not ours, so that it is nothing to us when there is one again; who wants in waits.
                self._poll.unregister(self._listener)
                self._rests_until = time.monotonic() + _REST_SECONDS
            return
        connection.setblocking(False)
        if credentials(connection)[1] not in (0, os.geteuid()):
            connection.close()
            return
        if len(self._waiting) >= _MOST_SILENT:
            self._drop_oldest()
        self._waiting[connection.fileno()] = connection
        self._poll.register(connection, select.EPOLLIN)

    def due(self) -> float | None:
        """When `overdue` has something to do, in seconds of the monotonic clock."""
        return self._rests_until

    def overdue(self, now: float) -> None:
        """Accept again, after there was no descriptor for who came."""
        if self._rests_until is not None and now >= self._rests_until:
            self._rests_until = None
            self._poll.register(self._listener, select.EPOLLIN)

    def hear(self, descriptor: int) -> tuple[socket.socket, Any]:
        """(its connection, which is the caller's now and still polled; its question, None if it is none)."""
        connection = self._waiting.pop(descriptor)
        try:
            return connection, json.loads(connection.recv(MESSAGE_BYTES))
        except (OSError, ValueError, RecursionError):
            return connection, None

    def _drop_oldest(self) -> None:
        for descriptor, connection in self._waiting.items():
            self._poll.unregister(connection)
            connection.close()
            del self._waiting[descriptor]
            return


def _listening(path: Path) -> socket.socket:
    kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        path.unlink(missing_ok=True)
        with short_name(path) as name:
            listener.bind(name)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def reply(connection: socket.socket, answer: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Send *answer* with *descriptors*, which stay the caller's; without waiting, and to nobody who is gone.

    What is too long for a message goes as a file in memory, behind the other descriptors.
    """
    words = json.dumps(answer).encode()
    if len(words) <= MESSAGE_BYTES:
        with suppress(OSError):
            socket.send_fds(connection, [words], descriptors)
        return
    whole = memory(words)
    try:
        with suppress(OSError):
            socket.send_fds(connection, [json.dumps({LONG: True}).encode()], [*descriptors, whole])
    finally:
        os.close(whole)


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of whoever connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid
