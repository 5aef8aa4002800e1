"""The post of the filler: who has it, what he is told, and who gets it when he is gone.

Somebody may come and take the post (`nopull mount` brings its own), else a process is started for it. A
filler that does nothing useful is followed by the next after a pause. Used by one thread.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from erofs_fs import handover
from erofs_fs.keeper_words import ARE_YOU_THERE

_ARRIVAL_SECONDS: Final = 10.0  # a process that was started has to take the post within this
_ASK_SECONDS: Final = 4.0  # from one question whether it is there to the next
_SILENT_SECONDS: Final = 8.0  # a filler that was asked whether it is there has to answer within this
_AWAY_SECONDS: Final = 3.0  # after so long without a question nobody knows whether it is silent
_PAUSES: Final = (0.0, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # between fillers of which none did anything


class FillerPost:
    """At most one connection to a filler, and at most one process started to become one.

    Parameters:
        command: what becomes a filler.
        held: what it holds from its first moment, by name, so that readers wait on if the keeper is killed.
        poll: descriptors are registered here; the caller calls `send_more` and `reap` when they are ready.
    """

    def __init__(
        self,
        command: list[str],
        held: Mapping[str, int],
        poll: select.epoll,
        say: Callable[[str], None],
    ) -> None:
        self._command = command
        self._held = held
        self._poll = poll
        self._say = say
        self._unsent: deque[bytes] = deque()
        self._child: tuple[int, int] | None = None  # pid, pidfd
        self._arrives_until = 0.0
        self._useless = 0  # fillers in a row
        self._next_at = 0.0
        self._asked_at = 0.0  # whether it is there, last; 0: never
        self._is_silent = False  # since then
        self._looked_at = 0.0  # for its answer, last
        self.connection: socket.socket | None = None
        self.pid = 0
        self.started = 0

    @property
    def filler_fd(self) -> int:
        """The connection's descriptor; -1 if nobody has the post."""
        return -1 if self.connection is None else self.connection.fileno()

    @property
    def child_fd(self) -> int:
        """Ready when the process that was started has ended; -1 if there is none."""
        return -1 if self._child is None else self._child[1]

    def take(self, connection: socket.socket, pid: int) -> None:
        """*connection*, which is registered already, has the post now."""
        self.connection, self.pid = connection, pid
        self._arrives_until = 0.0
        self._asked_at = 0.0
        self._is_silent = False
        self._unsent.clear()

    def tell(self, message: bytes) -> None:
        """Send *message* if somebody has the post; what does not fit into the connection now goes later."""
        if self.connection is None:
            return
        if not self._unsent and self._sent(message):
            return
        if not self._unsent:
            self._poll.modify(self.connection, select.EPOLLIN | select.EPOLLOUT)
        self._unsent.append(message)

    def send_more(self) -> None:
        """The connection takes messages again."""
        while self._unsent and self._sent(self._unsent[0]):
            self._unsent.popleft()
        if not self._unsent and self.connection is not None:
            self._poll.modify(self.connection, select.EPOLLIN)

    def heard(self, *, useful: bool) -> None:
        """The filler has said something; *useful*: that it has filled something."""
        self._is_silent = False
        if useful:
            self._useless = 0

    def ask_whether_there(self, now: float) -> None:
        """Have a filler that is stopped or stuck replaced: it is asked, and dismissed when it is silent.

        To be called as often as one likes; it is not asked each time. Who does not call for a while starts
        anew: he may have been stopped himself, and have an answer that he has not heard.
        """
        away = now - self._looked_at > _AWAY_SECONDS
        self._looked_at = now
        if self.connection is None:
            return
        if away and self._is_silent:
            self._is_silent, self._asked_at = False, 0.0
        if not self._is_silent:
            if now - self._asked_at >= _ASK_SECONDS:
                self._asked_at = now
                self._is_silent = True
                self.tell(ARE_YOU_THERE)
        elif now - self._asked_at >= _SILENT_SECONDS:
            self._say(f"filler {self.pid} has not answered for {_SILENT_SECONDS:g} s and is killed")
            self._asked_at = now
            if self.pid <= 0:  # not seen from here, and to a signal the number means us and all around us
                self.lose()
                return
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def lose(self) -> None:
        """The connection has ended."""
        connection, self.connection = self.connection, None
        if self._child is not None and self._child[0] == self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # of no use without a connection
        self.pid = 0
        if connection is not None:
            with suppress(OSError):
                self._poll.unregister(connection)
            connection.close()
        self._unsent.clear()
        self._next_at = time.monotonic() + _PAUSES[min(self._useless, len(_PAUSES) - 1)]
        self._useless += 1

    def fill(self) -> None:
        """Start a filler if nobody has the post or is on the way to it; at its time."""
        now = time.monotonic()
        if self.connection is not None or self._child is not None or now < self._next_at:
            return
        self._next_at = now + _PAUSES[min(self._useless, len(_PAUSES) - 1)]
        environment = handover.unmanaged(os.environ)
        try:
            pid = handover.spawn_with(self._command, self._held, environment, output=1, errors=2)
        except OSError as error:
            self._next_at = now + _PAUSES[-1]
            self._say(f"starting a filler: {error.strerror}: {self._command[0]}")
            return
        self.started += 1
        self._useless += 1
        self._child = (pid, os.pidfd_open(pid))
        self._poll.register(self._child[1], select.EPOLLIN)
        self._arrives_until = now + _ARRIVAL_SECONDS

    def reap(self) -> None:
        """The process that was started has ended."""
        if self._child is None:
            return
        (pid, pidfd), self._child = self._child, None
        self._poll.unregister(pidfd)
        os.close(pidfd)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def due(self) -> float | None:
        """When `overdue` or `fill` has something to do, in seconds of the monotonic clock, if anybody is
        needed at all.
        """
        if self.connection is not None:
            return None
        if self._child is not None:
            return self._arrives_until or None
        return self._next_at

    def overdue(self, now: float) -> None:
        """Give up a process that has not taken the post in time."""
        if self._child is not None and self.connection is None and 0 < self._arrives_until <= now:
            self._say(f"filler {self._child[0]} was not there within {_ARRIVAL_SECONDS:g} s")
            with suppress(ProcessLookupError):
                os.kill(self._child[0], signal.SIGKILL)
            self._arrives_until = 0.0

    def _sent(self, message: bytes) -> bool:
        assert self.connection is not None
        try:
            self.connection.send(message)
        except BlockingIOError:
            return False
        except OSError:
            return True  # it is gone, which is heard of soon; the next is told everything anew
        return True
