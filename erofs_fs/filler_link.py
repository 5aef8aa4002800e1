"""The filler's end of its connection to the keeper: taking the post, hearing what is needed, telling what is.

Holds the keeper's descriptors meanwhile, so that readers go on waiting if it is killed, and starts the next;
also if it is silent (`keeper_watch`).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from chunk_store.keeper_client import KEEPER, SOCKET, receive
from chunk_store.short_name import short_name
from erofs_fs import handover
from erofs_fs.errors import KeeperFailed, PostTaken
from erofs_fs.keeper_program import KeeperProgram, start_keeper
from erofs_fs.keeper_watch import KeeperWatch
from erofs_fs.keeper_words import (
    ARE_YOU_THERE,
    HAVE,
    LOST,
    MESSAGE_BYTES,
    NEED,
    Word,
    pack_word,
    parse_word,
)

_CONNECT_SECONDS: Final = 5.0
_RESTORE_SECONDS: Final = 25.0  # in which keepers that are killed at once are followed by the next
_LOOK_SECONDS: Final = 0.02
_LONGEST_PAUSE: Final = 1.0  # between keepers of which none serves


class FillerLink:
    """One connection that has the post. `hear` belongs to one thread; what is told may be told by any.

    Parameters:
        root: of the store.
        program: what becomes a keeper, if this one is killed.
        requests: what is known of mounts, by their ids: a keeper that is new may have lost their secrets.
    """

    def __init__(self, root: Path, program: KeeperProgram, requests: Mapping[str, Any]) -> None:
        """Raises: PostTaken; KeeperFailed, there is no keeper."""
        self._root = root
        self._program = program
        self.held: dict[str, int] = {}  # by name in `handover`
        self._keeper = 0  # process id of the one that was started here
        self._managed = False  # by a service manager, which starts the next
        # One message at a time; a leaf.
        self._sending = threading.Lock()
        self._connection = self._connected(requests)
        self._watch = KeeperWatch()
        self._watch.begin(self._connection, self.held[handover.JOURNAL])

    def hear(self) -> Word | dict[str, Any] | None:
        """The next message; None when the connection has ended."""
        while True:
            try:
                message = self._connection.recv(MESSAGE_BYTES)
            except OSError:
                return None
            if not message:
                return None
            word = parse_word(message)
            if word is not None:
                if word.kind == NEED:
                    self._watch.needed()
                return word
            if message == ARE_YOU_THERE:
                self.say(json.loads(ARE_YOU_THERE))
                continue
            with suppress(ValueError):
                found = json.loads(message)
                if isinstance(found, dict):
                    return found

    def have(self, window_id: str, end: int) -> None:
        """The first *end* bytes of the window are verified and in its file."""
        self._send(pack_word(Word(HAVE, window_id, end)))

    def lost(self, window_id: str, until: int = 0) -> None:
        """The window cannot be filled for those who needed it until then, in nanoseconds of the monotonic
        clock; 0: now.
        """
        self._send(pack_word(Word(LOST, window_id, until)))

    def say(self, words: Mapping[str, Any]) -> None:
        """Anything else."""
        self._send(json.dumps(words).encode())

    def restore(self, requests: Mapping[str, Any]) -> None:
        """The connection has ended: have a keeper again, started with what is held here if there is none.

        Raises:
            PostTaken: by another process, meanwhile.
            KeeperFailed: no keeper comes up.
        """
        self._watch.pause()
        self._connection.close()
        self._reconnect(requests)
        self._watch.begin(self._connection, self.held[handover.JOURNAL])

    def _reconnect(self, requests: Mapping[str, Any]) -> None:
        deadline = time.monotonic() + _RESTORE_SECONDS
        managed = self._managed
        pause = _LOOK_SECONDS
        while True:
            self._reap_keeper()
            try:
                if managed:
                    managed = False
                    self._connection = self._connected(requests, awaited=True)
                    return
                self._keeper = start_keeper(self._program, self.held) or self._keeper
                self._connection = self._connected(requests)
                return
            except KeeperFailed:
                # Killed again, before it served or right after: readers wait meanwhile.
                if time.monotonic() >= deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def interrupt(self) -> None:
        """Have `hear` return None."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give up the post, and let the keeper's descriptors go."""
        self._watch.end()
        self.interrupt()
        self._connection.close()
        held, self.held = self.held, {}
        for descriptor in held.values():
            os.close(descriptor)

    def _connected(self, requests: Mapping[str, Any], *, awaited: bool = False) -> socket.socket:
        """*awaited*: somebody starts a keeper; else where nobody listens there is none."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            try:
                connection.settimeout(_CONNECT_SECONDS)
                with short_name(self._root / KEEPER / SOCKET) as name:
                    connection.connect(name)
                connection.send(b'{"ask": "fill"}')
                words, descriptors = receive(connection, MESSAGE_BYTES)
                hired = json.loads(words)
                if hired.get("hired"):
                    for mount_id, request in requests.items():
                        known = {"ask": "know", "mount": mount_id, "request": request}
                        connection.send(json.dumps(known).encode())
                connection.settimeout(None)
            except (OSError, ValueError) as error:
                connection.close()
                hopeless = isinstance(error, FileNotFoundError | ConnectionRefusedError) and not awaited
                if self._reap_keeper() or hopeless or time.monotonic() >= deadline:
                    raise KeeperFailed(f"no keeper answers at {self._root / KEEPER / SOCKET}") from error
                time.sleep(_LOOK_SECONDS)
                continue
            if not hired.get("hired"):
                connection.close()
                raise PostTaken(str(hired.get("refused")))
            self._managed = bool(hired.get("stays"))
            self._hold(dict(zip(hired["names"], descriptors, strict=True)))
            return connection

    def _reap_keeper(self) -> bool:
        """Whether the keeper that was started here has ended; it leaves no zombie."""
        if not self._keeper:
            return False
        try:
            dead = os.waitpid(self._keeper, os.WNOHANG)[0] != 0
        except ChildProcessError:
            dead = True
        if dead:
            self._keeper = 0
        return dead

    def _hold(self, descriptors: dict[str, int]) -> None:
        before, self.held = self.held, descriptors
        for descriptor in before.values():
            os.close(descriptor)

    def _send(self, message: bytes) -> None:
        with self._sending, suppress(OSError):
            # A keeper that is gone is heard of by `hear`; the next one asks again.
            self._connection.send(message)
