"""The keeper of a store: watches absent windows for the kernel's mounts, and lets readers go on when they are
there.

One process per store, as small as can be, because nothing may stop it: standard library only, one thread, no
network, no file that it writes while it serves. It has the group of events; while it lives, readers wait.
What can fail is done by a *filler*, another process, started anew whenever it is gone: it is told which
bytes of which window are waited for (`keeper_words`), and tells when they are there. Nothing is lost with a
filler, because what still waits is said again to the next.

If the keeper itself is killed, whoever was given its descriptors (`handover`) keeps readers waiting and
starts the next, which finds in the `journal` who waits for what. If all are gone, the kernel lets everybody
go on: what is there reads right, what is absent is empty and reads as an error, never as zeros; the next
keeper takes up the mounts that still live (`kept_mounts`).

The process around it, from arguments to its end, is in `keeper_life`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from chunk_store.doorway import DIRECTORY_MODE, WINDOWS, next_number
from chunk_store.keeper_client import KEEPER, SOCKET
from erofs_fs import fanotify, handover, syscalls
from erofs_fs.descriptors import SPARE
from erofs_fs.errors import ErofsError
from erofs_fs.filler_post import FillerPost
from erofs_fs.gate import READER_SECONDS, Gate
from erofs_fs.journal import Journal, new_journal
from erofs_fs.keeper_clients import Clients, credentials, reply
from erofs_fs.keeper_words import HAVE, LOST, MESSAGE_BYTES, NEED, TURN, Word, pack_word, parse_word
from erofs_fs.kept_mounts import KeptMounts, Mount
from erofs_fs.watched import Watched, WatchedWindows
from rafs.errors import FormatInvalid

IDLE_SECONDS: Final = 1.0  # a keeper without mounts and without a filler ends after this
# While it makes a mount, which may have to look up very many files, or starts anew, nobody misses it so long.
_BUSY_SECONDS: Final = 20.0
_SLOW_SECONDS: Final = 4.0  # when somebody has waited this long, the filler is asked whether it is there
_END: Final = b'{"end": true}'  # to a filler
_LINES: Final = 200  # of what it has to say, kept until somebody asks

Answer = tuple[dict[str, Any], list[int]]  # and descriptors that go with it, and stay ours


class Keeper:
    """Serves from `run` until it is told to end or to restart. Not thread-safe.

    Parameters:
        root: of the store, which was opened under this boot.
        command: what becomes a filler.
        given: descriptors of its predecessor, by the names in `handover`; they are the keeper's now.
        reader_seconds: after which a reader gets an error.
        stays: it is somebody else's to end it; else it ends when it has no mounts.
    """

    def __init__(
        self,
        root: Path,
        command: list[str],
        given: Mapping[str, int],
        *,
        reader_seconds: float = READER_SECONDS,
        stays: bool = False,
    ) -> None:
        self._root = root
        self._stays = stays
        self._idle_since = time.monotonic()
        inherited = all(name in given for name in handover.STORED)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._group = given[handover.GROUP] if inherited else fanotify.open_group()
        self._journal = given[handover.JOURNAL] if inherited else new_journal(most)
        (root / WINDOWS).mkdir(DIRECTORY_MODE, exist_ok=True)
        self._poll = select.epoll()
        # Before the number is raised: who sees the new one asks for the door, and waits until we serve.
        self._clients = Clients(root / KEEPER / SOCKET, self._poll)
        # Before anything is watched: what others have open by now counts as noisy from here on.
        self.number = next_number(root)
        self._door = given[handover.DOOR] if inherited else self._open_door()
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._reader_seconds = reader_seconds
        self._post = FillerPost(command, self.stored, self._poll, self._say)
        self._windows = WatchedWindows(self._group, self._door)
        self._noted = Journal(self._journal)
        self._gate = Gate(
            self._group,
            self._noted,
            self._windows,
            most=min(most, self._noted.capacity) - SPARE,
            ours=self._is_ours,
            need=self._need,
            late=self._late,
            say=self._say,
            reader_seconds=reader_seconds,
        )
        self._gate_is_open = False
        self._ending = False
        self._restart: list[str] | None = None
        self._has_given = False
        self._former = given.get(handover.FILLER)
        left = list(self._noted.waiting())
        self._woken, self.waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # a signal writes to the second
        self._mounts = KeptMounts(root, self._windows, self._say)
        self._mounts.take_up(_requests(given.get(handover.REQUESTS)))
        if inherited:
            self._gate.resume(left)
        for descriptor in (self._mounts.descriptor, self._woken):
            self._poll.register(descriptor, select.EPOLLIN)

    @property
    def stored(self) -> dict[str, int]:
        """What has to be held by somebody else, too, lest readers that wait go on without data."""
        return {
            handover.GROUP: self._group,
            handover.JOURNAL: self._journal,
            handover.DOOR: self._door,
        }

    def left(self) -> dict[str, int]:
        """What a successor gets: what is `stored`, what a filler needs to know of all mounts, which may hold
        secrets, and the filler, which goes on until the successor serves, or else has another one started.
        """
        self._noted.turn(time.monotonic() + _BUSY_SECONDS)
        requests = handover.memory(json.dumps(self._mounts.requests).encode())
        left = {**self.stored, handover.REQUESTS: requests}
        if self._post.connection is not None:
            left[handover.FILLER] = self._post.filler_fd
        return left

    def run(self) -> list[str] | None:
        """Serve until the end; what to become then, if anything."""
        self._dismiss_former()
        while not self._ending and self._restart is None:
            self._noted.turn(time.monotonic())
            self._tend()
            if self._ending:
                break  # who asks now is not answered, and starts the next
            for descriptor, mask in self._poll.poll(self._timeout()):
                self._heed(descriptor, mask)
        if self._restart is None and not self._has_given:
            self._post.tell(_END)
        return self._restart

    def end(self) -> None:
        """Have `run` return."""
        self._ending = True

    def _is_ours(self, thread: int) -> bool:
        filler = self._post.pid
        return thread == os.getpid() or (filler > 0 and syscalls.is_thread_of(filler, thread))

    def _open_door(self) -> int:
        door = syscalls.open_tree_clone(os.fsencode(self._root / WINDOWS))
        fanotify.ignore_mount(self._group, door)
        return door

    def _dismiss_former(self) -> None:
        """End the filler of the keeper before: it may be of another version."""
        if self._former is None:
            return
        with socket.socket(fileno=self._former) as connection, suppress(OSError):
            connection.send(_END, socket.MSG_DONTWAIT)
        self._former = None

    def _timeout(self) -> float | None:
        due = [self._mounts.due(), self._gate.due(), self._clients.due()]
        if self._is_filler_needed():
            due.append(self._post.due())
        times = [at for at in due if at is not None]
        if not self._stays and not self._is_in_use():
            times.append(self._idle_since + IDLE_SECONDS)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _tend(self) -> None:
        """What has to happen because time went by, or because of what was heard."""
        now = time.monotonic()
        if self._is_in_use():
            self._idle_since = now
        elif not self._stays and now >= self._idle_since + IDLE_SECONDS:
            self._ending = True
        self._gate.overdue(now)
        self._clients.overdue(now)
        self._post.overdue(now)
        if self._is_filler_needed():
            self._post.fill()
        if self._gate.oldest is not None and now - self._gate.oldest >= _SLOW_SECONDS:
            self._post.ask_whether_there(now)
        for mount in self._mounts.overdue(now):
            self._drop(mount)
        if self._gate.is_open is not self._gate_is_open:
            self._gate_is_open = not self._gate_is_open
            if self._gate_is_open:
                self._poll.register(self._group, select.EPOLLIN)
                self._gate.read()  # also if there is nothing: then who comes has not waited yet
            else:
                self._poll.unregister(self._group)

    def _is_filler_needed(self) -> bool:
        return len(self._gate) > 0 or self._windows.watched > 0

    def _is_in_use(self) -> bool:
        return len(self._mounts) > 0 or self._post.connection is not None

    def _heed(self, descriptor: int, mask: int) -> None:
        if descriptor == self._group:
            self._gate.read()
        elif descriptor == self._post.filler_fd:
            if mask & select.EPOLLOUT:
                self._post.send_more()
            if mask & ~select.EPOLLOUT:
                self._hear_filler()
        elif descriptor == self._clients.descriptor:
            self._clients.accept()
        elif descriptor == self._clients.removals:
            self._clients.listen_again()
        elif descriptor == self._mounts.descriptor:
            for mount in self._mounts.ended():
                self._drop(mount)
        elif descriptor == self._post.child_fd:
            self._post.reap()
        elif descriptor in self._clients:
            self._hear_client(*self._clients.hear(descriptor))
        elif descriptor == self._woken:
            os.read(self._woken, 64)

    def _drop(self, mount: Mount) -> None:
        """The mount is gone."""
        for window in self._mounts.drop(mount):
            self._gate.refuse(window)
        # Its hold is removed by others: on a frozen file system that would wait, and with it all readers.
        self._post.tell(json.dumps({"gone": mount.id}).encode())

    def _hear_client(self, connection: socket.socket, question: Any) -> None:
        if isinstance(question, dict) and question.get("ask") == "fill":
            self._employ(connection)
            return
        self._poll.unregister(connection)
        with connection:
            if not isinstance(question, dict):
                return
            try:
                answer = self._answer(question)
            except RecursionError:  # of what was read just so, and is too deep to be said
                return
            reply(connection, *answer)
            taken = self._mounts.untaken(str(question.get("mount")))
            if question.get("ask") == "take" and taken is not None:
                self._mounts.taken(taken)

    def _answer(self, question: Mapping[str, Any]) -> Answer:
        asked = question.get("ask")
        if asked == "door":
            return {}, [self._door]
        if asked == "status":
            if question.get("needed"):
                self._idle_since = time.monotonic()
            return self._status(question.get("mount")), []
        if asked == "take":
            mount = self._mounts.untaken(str(question.get("mount")))
            return ({"refused": "no such mount waits"}, []) if mount is None else ({}, [mount.descriptor])
        if asked == "filler":
            self._post.ask_whether_there(time.monotonic())
            return {}, []
        if asked == "watch":
            return {"watched": self._windows.watch_again()}, []
        if asked == "restart":
            command = question.get("command")
            if not _can_be_executed(command):
                return {"refused": f"a restart needs a command that can be executed, not {command!r}"}, []
            self._restart = command
            return {}, []
        if asked == "give":
            self._ending = self._has_given = True
            left = self.left()
            return {"names": list(left)}, list(left.values())
        if asked == "end":
            self._ending = True
            return {}, []
        return {"refused": f"this keeper does not know {asked!r}"}, []

    def _status(self, mount_id: Any) -> dict[str, Any]:
        mount = self._mounts.of(str(mount_id))
        return {
            "facts": None if mount is None else mount.facts,
            "keeps": mount is not None,
            "pid": os.getpid(),
            "number": self.number,
            "filler": self._post.pid or None,
            "fillers_started": self._post.started,
            "mounts": {mount.id: len(mount.windows) for mount in self._mounts},
            "windows": len(self._windows),
            "watched": self._windows.watched,
            "waiting": len(self._gate),
            "waited_seconds": round(self._gate.waited_seconds, 6),
            "counts": self._gate.counts,
            "lines": list(self._lines),
        }

    def _employ(self, connection: socket.socket) -> None:
        """*connection* asks for the post."""
        if self._post.connection is not None:
            self._poll.unregister(connection)
            self._post.ask_whether_there(time.monotonic())
            with connection, suppress(OSError):
                connection.send(b'{"refused": "there is a filler"}')
            return
        stored = self.stored
        with suppress(OSError):
            words = json.dumps({"hired": True, "names": list(stored), "stays": self._stays}).encode()
            socket.send_fds(connection, [words], list(stored.values()))
        self._post.take(connection, credentials(connection)[0])
        # What was completed while nobody was there to say so.
        self._windows.settle(window for window in self._windows if window.watched)
        for mount in self._mounts:
            self._post.tell(json.dumps({"mount": mount.id, "request": mount.request}).encode())
        for window, end in self._gate.waited_for():
            self._need(window, end)

    def _hear_filler(self) -> None:
        connection = self._post.connection
        assert connection is not None
        while True:
            try:
                message = connection.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._post.lose()
                return
            if message == TURN:
                continue  # of a thread that does nothing else: the filler may be stuck all the same
            word = parse_word(message)
            self._post.heard(useful=word is not None and word.kind == HAVE)
            if word is None:
                self._do(message)
            elif word.kind == HAVE:
                self._gate.have(word.window_id, word.end)
            elif word.kind == LOST:
                self._gate.lost(word.window_id, word.end)

    def _need(self, window: Watched, end: int) -> None:
        self._post.tell(pack_word(Word(NEED, window.id, end)))

    def _late(self, window: Watched, end: int) -> None:
        """Readers of so much of the window get an error; why, and which file it was of, a filler can tell."""
        self._lines.append(f"window {window.id}: nobody could fill it within {self._reader_seconds:g} s")
        late = {"late": window.id, "bytes": end, "seconds": self._reader_seconds}
        self._post.tell(json.dumps(late).encode())

    def _do(self, message: bytes) -> None:
        """What a filler wants, other than to tell of windows."""
        try:
            wanted = json.loads(message)
            asked = wanted["ask"]
            if asked == "mount":
                answer = self._mount(str(wanted["id"]), Path(wanted["image"]), wanted["request"])
            elif asked == "know":
                mount = self._mounts.of(str(wanted["mount"]))
                if mount is not None:
                    mount.request = wanted["request"]  # with secrets that we may have lost
                    return
                answer = {"gone": wanted["mount"]}  # while there was no keeper to say so
            elif asked == "tell":
                if (mount := self._mounts.of(str(wanted["mount"]))) is not None:
                    mount.facts = wanted["facts"]
                return
            elif asked == "leave":
                answer = {"left": not self._is_filler_needed()}
            else:
                return
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        self._post.tell(json.dumps(answer).encode())

    def _mount(self, mount_id: str, image: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        self._noted.turn(time.monotonic() + _BUSY_SECONDS)
        try:
            self._mounts.make(mount_id, image, request)
        except (OSError, ErofsError, FormatInvalid) as error:
            code = error.errno if isinstance(error, OSError) else None
            return {"made": mount_id, "refused": str(error), "kind": type(error).__name__, "errno": code}
        finally:
            self._noted.turn(time.monotonic())
        return {"made": mount_id}

    def _say(self, line: str) -> None:
        self._lines.append(line)
        self._post.tell(json.dumps({"line": line}).encode())


def _can_be_executed(command: Any) -> bool:
    """Whether it looks like a command: there is no way back once it was tried."""
    if not isinstance(command, list) or not command:
        return False
    if not all(isinstance(word, str) and "\0" not in word for word in command):
        return False
    return Path(command[0]).is_file() and os.access(command[0], os.X_OK)


def _requests(descriptor: int | None) -> dict[str, Any]:
    if descriptor is None:
        return {}
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        found = json.loads(file.read())
    return found if isinstance(found, dict) else {}
