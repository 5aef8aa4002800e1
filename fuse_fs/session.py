"""One mount being served: requests read from its device, answered completely or with an errno.

`operations` knows the answers, `crew` has the threads, `device` the mount. Here a message becomes a request,
an answer or an error a reply, and a failure a line in the log.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable

from chunk_store.recent_failures import RecentFailures
from fuse_fs.answers import errno_of, is_failure
from fuse_fs.crew import Crew
from fuse_fs.device import is_gone
from fuse_fs.errors import MessageInvalid
from fuse_fs.failure_lines import FailureLines
from fuse_fs.operations import Operations
from fuse_fs.protocol import IN_HEADER, OUT_HEADER, READ_IN, UNANSWERED, Request, word_for
from fuse_fs.tree import ImageTree
from fuse_fs.waited import may_wait_until

log = logging.getLogger("nopull.fuse")

# The kernel wants room for a header and the largest write it was allowed, and for two pages at least.
MESSAGE_LIMIT = 64 << 10  # bytes
LARGEST_READ = 1 << 20  # bytes; of those that are answered without a change of threads

# Of the device: the reader was interrupted, the request was taken back, or somebody else had it.
_NOT_THIS_TIME = frozenset({errno.EINTR, errno.ENOENT, errno.EAGAIN})
# Of a reply: the reader no longer waits, or the mount is gone.
_NOT_WANTED = frozenset({errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN})


class Session:
    """Serves *tree* through *device*, which becomes this object's, until the mount is gone.

    *on_ready* is called once, by a thread that answers requests and must not look at the mount itself, when
    the kernel has taken up the mount; *on_end* once, when the mount is gone. *asked* comes to hold how often
    the kernel asked for what, by `protocol.Request`.
    """

    def __init__(
        self,
        tree: ImageTree,
        device: int,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
        asked: dict[int, int],
    ) -> None:
        self._tree = tree
        self._operations = Operations(tree)
        self._device = device
        self._on_ready = on_ready
        self._asked = asked  # written by the one thread whose turn it is
        # Buffers for the one thread whose turn it is.
        self._message = memoryview(bytearray(MESSAGE_LIMIT))
        self._content = memoryview(bytearray(LARGEST_READ))
        self._failed: RecentFailures[int] = RecentFailures()  # by node
        self._lines = FailureLines()
        self._ended = threading.Event()
        self._on_end = on_end
        self._crew = Crew(self._receive, self._end)

    def start(self) -> None:
        """Begin to answer, in threads of its own."""
        self._crew.start()

    def close(self, seconds: float) -> None:
        """Give the device up; waits *seconds* for requests that are being answered. For a mount that is gone,
        or whose process ends: else the kernel's threads of it would keep its number.
        """
        self._crew.join(seconds)
        device, self._device = self._device, -1
        if device >= 0:
            os.close(device)

    def wait(self, seconds: float) -> bool:
        """Whether the mount is gone within *seconds*."""
        return self._ended.wait(seconds)

    def _end(self) -> None:
        self._ended.set()
        self._on_end()

    def _receive(self) -> Callable[[], None] | None:
        """The next request that may have to wait; answers all others that come before it."""
        device, message = self._device, self._message
        while True:
            try:
                size = os.readv(device, [message])
            except OSError as error:
                if error.errno in _NOT_THIS_TIME:
                    continue
                if not is_gone(error):
                    log.error("the mount ends: reading requests: %s", error)
                return None
            if not size:
                return None
            if size < IN_HEADER.size:
                self._complain("a message of %d bytes from the kernel is no request", size)
                continue
            length, request, unique, node, _, _, asker, *_ = IN_HEADER.unpack_from(message)
            if length != size:
                self._reply(unique, number=errno.EINVAL)
                continue
            self._asked[request] = self._asked.get(request, 0) + 1
            if request == Request.READ:
                body = bytes(message[IN_HEADER.size : size])
                if (content := self._read_here(node, body)) is None:
                    return lambda: self._answer_read(unique, node, asker, body)
                self._reply(unique, content)
            elif request not in UNANSWERED:
                self._answer(request, unique, node, message[IN_HEADER.size : size])

    def _answer(self, request: int, unique: int, node: int, body: memoryview) -> None:
        try:
            content = self._operations.answer(request, node, body)
        # Whatever escaped would leave a process waiting for ever.
        except BaseException as error:  # noqa: BLE001
            self._log(request, node, error)
            self._reply(unique, number=errno_of(error))
            return
        self._reply(unique, content)
        if request == Request.INIT:
            self._on_ready()

    def _answer_read(self, unique: int, node: int, asker: int, body: bytes) -> None:
        since = time.monotonic()
        try:
            content = self._read(node, asker, body, since)
        except BaseException as error:  # noqa: BLE001
            self._log(Request.READ, node, error)
            if is_failure(error):
                # Not before the log, which may take its time: the kernel asks again after the reply.
                _, offset, size, *_ = READ_IN.unpack_from(body)
                self._failed.note(node, asker, offset, offset + size, since)
            self._reply(unique, number=errno_of(error))
            return
        self._reply(unique, content)

    def _read(self, node: int, asker: int, body: bytes, now: float) -> bytes:
        """*asker*: the thread that reads, as seen from here, 0 if it is not. Readahead names it, too."""
        if len(body) < READ_IN.size:
            raise MessageInvalid(f"a read of {len(body)} bytes is no request")
        _, offset, size, *_ = READ_IN.unpack_from(body)
        until = may_wait_until(
            self._failed, node, asker, offset, now, lambda: self._operations.is_local(node, offset, size)
        )
        return self._operations.read(node, offset, size, until)

    def _read_here(self, node: int, body: bytes) -> memoryview | None:
        """What needs no change of threads, since the page cache has it; and from the disk what would have to
        wait until one of those is done who wait for what is not here.
        """
        try:
            _, offset, size, *_ = READ_IN.unpack_from(body)
            if size > LARGEST_READ:
                return None
            into, from_disk = self._content[:size], self._crew.is_full
            found = self._operations.read_into(into, node, offset, from_disk=from_disk)
        except Exception:  # noqa: BLE001 - said where it is answered
            return None
        return None if found is None else self._content[:found]

    def _reply(self, unique: int, content: bytes | memoryview = b"", *, number: int = 0) -> None:
        """Answer the request *unique*: with *content*, or with the errno *number*."""
        size = OUT_HEADER.size + len(content)
        try:
            os.writev(self._device, [OUT_HEADER.pack(size, -number, unique), content])
        except OSError as error:
            if error.errno in _NOT_WANTED:
                return
            self._complain("the kernel does not take a reply of %d bytes: %s", size, error)
            if content:
                # Too long for the request, say: the reader gets an error, and does not wait for ever.
                self._reply(unique, number=errno.EIO)

    def _complain(self, line: str, *what: object) -> None:
        self._lines.limit(line, lambda: log.error(line, *what))

    def _log(self, request: int, node: int, error: BaseException) -> None:
        number = self._operations.inode_number(node)
        self._lines.note(word_for(request), error, lambda: self._tree.paths([number])[0])
