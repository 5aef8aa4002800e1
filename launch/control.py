"""A question to a mount server and its answer: one line of JSON each, over a socket in the state root.

Serves `ps`, `explain` and `umount`. Not a remote interface: only the server's own user and root are answered,
questions are short, and each connection carries one.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunk_store.seldom import Seldom
from chunk_store.short_name import short_name
from launch.awaiting import await_words
from launch.errors import ServerSilent
from launch.later import Later

log = logging.getLogger("nopull.control")

QUESTION_LIMIT = 64 << 10  # bytes
ANSWER_LIMIT = 16 << 20  # bytes
_LOOK_SECONDS = 0.5  # between looks whether who asked is still there
SECONDS = 5.0  # for a whole exchange, on both sides, unless said otherwise

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class ControlServer:
    """Answers on the socket *path*, each question in a thread of its own, until it is closed.

    *unheard* is called with a question whose answer did not, or will not, reach who had asked; perhaps twice.
    """

    def __init__(
        self, path: Path, answer: Answer, unheard: Callable[[Mapping[str, Any]], None] = lambda _: None
    ) -> None:
        self._path = path
        self._answer = answer
        self._unheard = unheard
        self._lines = Seldom()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with suppress(FileNotFoundError):
            path.unlink()
        with short_name(path) as name:
            self._socket.bind(name)
        path.chmod(0o600)
        self._socket.listen(8)
        threading.Thread(target=self._serve, name="nopull-control", daemon=True).start()

    def close(self) -> None:
        """Stop answering and remove the socket."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with suppress(FileNotFoundError):
            self._path.unlink()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            # Of its own: an answer may take as long as making a mount does.
            answering = threading.Thread(
                target=self._answer_one, args=(connection,), name="nopull-answer", daemon=True
            )
            answering.start()

    def _answer_one(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(SECONDS)
            try:
                self._exchange(connection)
            except OSError as error:
                log.debug("a question was not answered: %s", error)
            # One bad question must not end the answering.
            except Exception:
                if self._lines.passes("defects", time.monotonic()) is not None:
                    log.exception("answering a question failed")

    def _exchange(self, connection: socket.socket) -> None:
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", peer)
        if user not in (0, os.geteuid()):
            return
        try:
            question = json.loads(_read_line(connection, QUESTION_LIMIT))
        except ValueError:
            return
        if isinstance(question, dict):
            answering = Later(lambda: self._answer(question))
            # It may take long, and until then nothing is sent that would tell that nobody is there any more.
            while not answering.wait(_LOOK_SECONDS):
                if _has_gone(connection):
                    self._unheard(question)
                    break
            answer = json.dumps(answering.result()).encode()
            try:
                connection.sendall(answer + b"\n")
            except OSError:
                self._unheard(question)
                raise


def ask(
    path: Path,
    question: Mapping[str, Any] | None = None,
    *,
    seconds: float = SECONDS,
    look: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """What the server at socket *path* answers to *question* (default: its status) within *seconds*;
    *look* is called every 2 s until then.

    Raises:
        ServerSilent: no server listens there, or it did not answer in time.
        what *look* raises.
    """
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(seconds)
            with short_name(path) as name:
                connection.connect(name)
            connection.sendall(json.dumps(question or {"ask": "status"}).encode() + b"\n")
            await_words(connection.fileno(), look, deadline)
            answer = json.loads(_read_line(connection, ANSWER_LIMIT))
    except (OSError, ValueError) as error:
        raise ServerSilent(f"asking the mount server at {path}: {error or 'no answer'}") from error
    if not isinstance(answer, dict):
        raise ServerSilent(f"asking the mount server at {path}: the answer is not an object")
    return answer


def _has_gone(connection: socket.socket) -> bool:
    """Whether who asked has closed it, or was killed; nobody sends more than the question."""
    looked = select.poll()
    looked.register(connection, select.POLLRDHUP)
    return bool(looked.poll(0))


def _read_line(connection: socket.socket, limit: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece or len(line) + len(piece) > limit:
            raise ValueError("the line ends early or is too long")
        line += piece
    return bytes(line)
