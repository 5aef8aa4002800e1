"""The filler's eye on the keeper: one that is stopped or stuck is killed, so that the filler has the next one
started. Whoever is silent can be replaced without harm, because the filler holds what readers wait on.

The keeper is woken now and then and notes in the journal that it has looked at what had come. So what is seen
here is what it does, not whether an answer has been heard: a filler that was stopped itself finds that the
keeper has looked meanwhile.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from typing import Final

from erofs_fs import syscalls
from erofs_fs.journal import Journal
from erofs_fs.keeper_words import TURN

log = logging.getLogger("nopull.filler")

# Between two looks. With somebody waiting the shorter, so that a reader whose 25 s were all but over when the
# keeper was stopped has an answer within 30 s.
_IDLE_SECONDS: Final = 4.0
_LOOK_SECONDS: Final = 1.0
_LOOKS: Final = 4  # without a sign of it
_LATE_SECONDS: Final = 1.0  # a look that comes so late is none: this process was stopped, and who not?
_WAITED_SECONDS: Final = 30.0  # after something was needed somebody may wait for so long


class KeeperWatch:
    """Looks at one keeper after the other, in a thread of its own. The rest may be called by any thread."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        # The keeper that is watched; None while there is none. Set as one.
        self._watched: tuple[socket.socket, Journal] | None = None
        self._needed_at = -_WAITED_SECONDS
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def begin(self, connection: socket.socket, journal: int) -> None:
        """Watch the keeper at the other end of *connection*, which notes in the memory *journal*; both stay
        the caller's.
        """
        self._watched = connection, Journal(journal)

    def pause(self) -> None:
        """There is no keeper now."""
        self._watched = None

    def end(self) -> None:
        """Watch no more."""
        self._watched = None
        self._ended.set()

    def needed(self) -> None:
        """Somebody waits."""
        self._needed_at = time.monotonic()

    def _look(self) -> None:
        watched, asked, looks = None, 0.0, 0
        pause = _IDLE_SECONDS
        due = time.monotonic() + pause
        while not self._ended.wait(pause):
            now = time.monotonic()
            before, watched = watched, self._watched
            if watched is None:
                looks = 0
            elif watched is not before or watched[1].turned >= asked or now > due + _LATE_SECONDS:
                asked, looks = now, 0
                # What does not fit in wakes it as well.
                with suppress(OSError):
                    watched[0].send(TURN, socket.MSG_DONTWAIT)
            else:
                looks += 1
                if looks >= _LOOKS:
                    self._replace(watched[0], now - watched[1].turned)
                    looks = 0
            is_waited_for = looks > 0 or now < self._needed_at + _WAITED_SECONDS
            pause = _LOOK_SECONDS if is_waited_for else _IDLE_SECONDS
            due = now + pause

    def _replace(self, connection: socket.socket, seconds: float) -> None:
        try:
            syscalls.kill_listener(connection)
        except ProcessLookupError:
            return
        except OSError as error:
            log.error("the keeper has been silent for %.0f s and cannot be killed: %s", seconds, error)
            return
        log.warning("the keeper had been silent for %.0f s and was killed", seconds)
