"""Messages through a socket in place of the device: each gets its reply, and nothing waits behind a read."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager

import pytest

from chunk_store.recent_failures import GRACE_SECONDS, RecentFailures
from fuse_fs import crew, session
from fuse_fs.failure_lines import MOST
from fuse_fs.protocol import IN_HEADER, INIT_OUT, OUT_HEADER, READ_IN, ROOT_NODE, Request
from fuse_fs.session import Session
from fuse_fs.tree import ImageTree
from rafs.bootstrap import Bootstrap
from tests.support.clock import Clock
from tests.support.images import image_of
from tests.support.trees import file, tree

PATIENCE = 20.0
CONTENT = os.urandom(9000)


class Gated:
    """Blob bytes that come when the gate is open."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.gate = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.local: Container[int] = ()  # offsets of reads that wait for nothing but the disk
        self.cached: Container[int] = ()  # nor for that
        self.limits: list[float | None] = []  # of each read

    def read(self, _: int, offset: int, size: int, until: float | None = None) -> bytes:
        self.limits.append(until)
        assert offset in self.local or self.gate.acquire(timeout=PATIENCE)
        if self.failure is not None:
            raise self.failure
        return self._content[offset : offset + size]

    def read_into(self, into: memoryview, _: int, offset: int, *, from_disk: bool) -> bool:
        if offset in self.cached or (from_disk and offset in self.local):
            into[:] = self._content[offset : offset + len(into)]
            return True
        return False

    def is_local(self, _: int, offset: int, __: int) -> bool:
        return offset in self.local


class Served:
    """A session and the kernel's side of it."""

    def __init__(self, kernel: socket.socket, device: int) -> None:
        image = image_of(tree(file(b"f", CONTENT)))
        self.bytes = Gated(image.devices[image.blobs[0].id])
        self.tree = ImageTree(Bootstrap(image.bootstrap), self.bytes)
        self.node = self.tree.lookup(self.tree.inode(self.tree.root), b"f") + 2
        self.kernel = kernel
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.session = Session(self.tree, device, self.ready.set, self.ended.set, {})
        self.session.start()

    def send(
        self, request: int, unique: int, body: bytes = b"", node: int = ROOT_NODE, asker: int = 0
    ) -> None:
        size = IN_HEADER.size + len(body)
        self.kernel.send(IN_HEADER.pack(size, request, unique, node, 0, 0, asker, 0, 0) + body)

    def send_read(self, unique: int, size: int = 100, offset: int = 0, asker: int = 7) -> None:
        self.send(Request.READ, unique, READ_IN.pack(0, offset, size, 0, 0, 0, 0), self.node, asker)

    def reply(self) -> tuple[int, int, bytes]:
        """(id, errno, body)."""
        raw = self.kernel.recv(1 << 20)
        length, number, unique = OUT_HEADER.unpack_from(raw)
        assert length == len(raw)
        return unique, -number, raw[OUT_HEADER.size :]


@contextmanager
def _serving() -> Iterator[Served]:
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.settimeout(PATIENCE)
    made = Served(kernel, device.detach())
    try:
        yield made
    finally:
        for _ in range(crew.MOST):
            made.bytes.gate.release()
        kernel.close()
        made.session.close(PATIENCE)


@pytest.fixture
def served() -> Iterator[Served]:
    with _serving() as made:
        yield made


def test_nothing_waits_behind_reads_that_wait(served: Served) -> None:
    for unique in range(20):
        served.send_read(unique, size=unique + 1)
    served.send(Request.GETATTR, 99)
    assert served.reply()[:2] == (99, 0)
    for _ in range(20):
        served.bytes.gate.release()
    found = dict(sorted((unique, body) for unique, _, body in (served.reply() for _ in range(20))))
    assert found == {unique: CONTENT[: unique + 1] for unique in range(20)}


def test_no_read_waits_in_the_kernel_for_others(served: Served) -> None:
    served.send(Request.INIT, 1, (7).to_bytes(4, "little") + (31).to_bytes(4, "little") + bytes(8))
    _, _, body = served.reply()
    may_send = INIT_OUT.unpack(body)[4]
    assert may_send == 65535  # it has 16 bits


def test_what_is_here_is_read_although_as_many_readers_wait_as_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "MOST", 3)
    with _serving() as served:
        for unique in range(10):
            served.send_read(unique)
        served.send(Request.GETATTR, 97)
        assert served.reply()[:2] == (97, 0)
        served.bytes.local = [5]
        served.send_read(98, offset=5)
        assert served.reply() == (98, 0, CONTENT[5:105])
        served.send(Request.READ, 99, b"short", served.node)
        for _ in range(10):
            served.bytes.gate.release()
        assert {served.reply()[0] for _ in range(11)} == {*range(10), 99}


def test_what_the_page_cache_has_is_answered_by_who_asked_the_kernel(served: Served) -> None:
    served.bytes.cached = [5]
    for unique in range(50):
        served.send_read(unique, offset=5)
        assert served.reply() == (unique, 0, CONTENT[5:105])
    assert sum(thread.name == "fuse" for thread in threading.enumerate()) == 1
    assert served.bytes.limits == []


def test_idle_threads_end(served: Served) -> None:
    for unique in range(20):
        served.send_read(unique)
    for _ in range(20):
        served.bytes.gate.release()
    for _ in range(20):
        served.reply()
    give_up = time.monotonic() + PATIENCE
    while sum(thread.name == "fuse" for thread in threading.enumerate()) > crew.IDLE + 1:
        assert time.monotonic() < give_up
        served.send(Request.GETATTR, 99)
        served.reply()


def test_a_failure_is_an_input_output_error_with_a_path_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.bytes.failure = ValueError("a defect")
    served.bytes.gate.release()
    served.send_read(1)
    assert served.reply() == (1, errno.EIO, b"")
    assert "read /f: ValueError: a defect" in caplog.text
    # The kernel asks again for the page, and the reader has waited already.
    served.send_read(2)
    assert served.reply() == (2, errno.EIO, b"")


def test_who_has_waited_in_vain_is_not_made_to_wait_again_and_whoever_has_not_is(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.bytes.failure = ValueError("a defect")
    served.bytes.gate.release()
    served.send_read(1, size=8192, asker=41)
    assert served.reply() == (1, errno.EIO, b"")
    served.bytes.failure = None
    served.send_read(2, asker=42)
    served.send_read(3, size=4096, offset=4096, asker=41)
    assert served.reply() == (3, errno.EIO, b"")
    served.bytes.gate.release()
    assert served.reply() == (2, 0, CONTENT[:100])
    assert served.bytes.limits == [None, None]
    assert caplog.text.count("read /f: ValueError") == 1


def test_who_may_have_waited_behind_another_waits_a_little_longer_than_he(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    served.session._failed = RecentFailures(clock.monotonic)
    served.bytes.failure = ValueError("a defect")
    served.send_read(1, asker=41)
    give_up = time.monotonic() + PATIENCE
    while not served.bytes.limits:
        assert time.monotonic() < give_up
        time.sleep(0.001)
    clock.now += 25
    served.bytes.gate.release()
    assert served.reply() == (1, errno.EIO, b"")
    served.bytes.gate.release()
    served.send_read(2, asker=42)
    assert served.reply() == (2, errno.EIO, b"")
    assert served.bytes.limits == [None, clock.now + GRACE_SECONDS]
    clock.now += GRACE_SECONDS
    served.bytes.gate.release()
    served.send_read(3, asker=43)
    assert served.reply() == (3, errno.EIO, b"")
    assert len(served.bytes.limits) == 3


def test_who_has_waited_in_vain_gets_what_has_come_since(served: Served) -> None:
    served.bytes.failure = ValueError("a defect")
    served.bytes.gate.release()
    served.send_read(1)
    assert served.reply() == (1, errno.EIO, b"")
    served.bytes.failure, served.bytes.local = None, [0]
    served.bytes.gate.release()
    served.send_read(2)
    assert served.reply() == (2, 0, CONTENT[:100])


def test_messages_that_are_none_are_refused_or_passed_over(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.kernel.send(b"short")
    served.kernel.send(IN_HEADER.pack(4000, Request.GETATTR, 7, ROOT_NODE, 0, 0, 0, 0, 0))
    assert served.reply() == (7, errno.EINVAL, b"")
    served.send(Request.READ, 8, b"not a whole body", served.node)
    assert served.reply() == (8, errno.EINVAL, b"")
    served.send(Request.GETATTR, 9)
    assert served.reply()[:2] == (9, 0)
    assert "5 bytes" in caplog.text


def test_what_the_kernel_says_or_refuses_again_and_again_is_a_few_lines_in_the_log(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    really_write = os.writev

    def write(device: int, parts: list[bytes]) -> int:
        if parts[1]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return really_write(device, parts)

    monkeypatch.setattr(os, "writev", write)
    for unique in range(2 * MOST):
        served.kernel.send(b"short")
        served.send(Request.GETATTR, unique)
        assert served.reply() == (unique, errno.EIO, b"")
    assert caplog.text.count("is no request") == MOST
    assert caplog.text.count("does not take a reply") == MOST


def test_what_is_to_be_forgotten_gets_no_reply(served: Served) -> None:
    served.send(Request.FORGET, 1, bytes(8))
    served.send(Request.BATCH_FORGET, 2, bytes(8))
    served.send(Request.GETATTR, 3)
    assert served.reply()[0] == 3


def test_the_mount_is_ready_when_the_kernel_has_its_answer(served: Served) -> None:
    served.send(Request.INIT, 1, (7).to_bytes(4, "little") + (31).to_bytes(4, "little") + bytes(8))
    assert served.reply()[:2] == (1, 0)
    assert served.ready.wait(PATIENCE)
