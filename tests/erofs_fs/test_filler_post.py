"""The filler's post: given again at once or after a pause, taken from who is silent or late."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from erofs_fs import filler_post, handover
from erofs_fs.filler_post import FillerPost
from erofs_fs.keeper_words import ARE_YOU_THERE
from tests.support.clock import Clock

STAYS = ["/bin/sleep", "300"]


class Bench:
    """A post, and its clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.said: list[str] = []
        self.poll = select.epoll()
        self.held: dict[str, int] = {}

    def post(self, command: list[str]) -> FillerPost:
        self.one = FillerPost(command, self.held, self.poll, self.said.append)
        return self.one

    def ask(self, seconds: float) -> None:
        """Ask whether it is there, for so long."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += 0.25
            self.one.ask_whether_there(self.clock.now)

    def await_end(self) -> None:
        """Until the process that was started has ended."""
        watching = select.poll()
        watching.register(self.one.child_fd, select.POLLIN)
        assert watching.poll(30_000)
        self.one.reap()

    def connected(self, pid: int) -> socket.socket:
        """A filler has the post; its end of the connection."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        self.poll.register(ours, select.EPOLLIN)
        self.one.take(ours, pid)
        return theirs


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    clock = Clock()
    monkeypatch.setattr(filler_post, "time", clock)
    made = Bench(clock)
    yield made
    if made.one.child_fd >= 0:
        signal.pidfd_send_signal(made.one.child_fd, signal.SIGKILL)
        made.await_end()
    made.one.lose()
    made.poll.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that can be killed."""
    with subprocess.Popen(STAYS) as process:
        yield process
        process.kill()


def test_fillers_that_do_nothing_are_followed_after_longer_and_longer_pauses(bench: Bench) -> None:
    post = bench.post(["/bin/true"])
    pauses = []
    for number in range(10):
        post.fill()
        assert post.started == number + 1
        post.fill()  # one is on its way
        assert post.started == number + 1
        bench.await_end()
        due = post.due()
        assert due is not None
        pauses.append(round(due - bench.clock.now, 3))
        bench.clock.now = due - 0.001
        if pauses[-1]:
            post.fill()
            assert post.started == number + 1
        bench.clock.now = due
    assert pauses[:2] == [0, 0]  # the first may have been killed, and so may the second
    assert pauses == sorted(pauses) and pauses[-1] == pauses[-2] == 5


def test_a_filler_that_took_the_post_and_filled_something_is_followed_at_once(bench: Bench) -> None:
    post = bench.post(["/bin/true"])
    for _ in range(6):
        bench.connected(0).close()
        post.lose()
    due = post.due()
    assert due is not None and due > bench.clock.now
    bench.connected(0).close()
    post.heard(useful=False)
    post.lose()
    due = post.due()
    assert due is not None and due > bench.clock.now
    bench.connected(0).close()
    post.heard(useful=True)
    post.lose()
    assert post.due() == bench.clock.now


def test_a_filler_that_does_not_arrive_in_time_is_given_up(bench: Bench) -> None:
    post = bench.post(STAYS)
    post.fill()
    due = post.due()
    assert due is not None and due > bench.clock.now + 5
    bench.clock.now = due - 0.001
    post.overdue(bench.clock.now)
    assert bench.said == []
    bench.clock.now = due
    post.overdue(bench.clock.now)
    bench.await_end()
    assert len(bench.said) == 1 and "was not there within" in bench.said[0]
    bench.clock.now += 60
    post.fill()
    assert post.started == 2


def test_a_filler_that_has_arrived_is_not_given_up(bench: Bench) -> None:
    post = bench.post(STAYS)
    post.fill()
    theirs = bench.connected(1 << 30)
    bench.clock.now += 1000
    post.overdue(bench.clock.now)
    assert post.due() is None and bench.said == []
    assert not select.select([post.child_fd], [], [], 0)[0]
    theirs.close()


def test_a_filler_that_is_asked_and_silent_is_killed(
    bench: Bench, sleeper: subprocess.Popen[bytes]
) -> None:
    post = bench.post(STAYS)
    theirs = bench.connected(sleeper.pid)
    post.ask_whether_there(bench.clock.now)
    assert theirs.recv(100) == ARE_YOU_THERE
    bench.ask(seconds=7)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)  # once is enough
    assert sleeper.poll() is None
    bench.ask(seconds=1)
    assert sleeper.wait(30) == -signal.SIGKILL
    assert len(bench.said) == 1 and str(sleeper.pid) in bench.said[0]
    theirs.close()


def test_an_answer_that_was_not_heard_because_the_keeper_was_stopped_itself_is_waited_for(
    bench: Bench, sleeper: subprocess.Popen[bytes]
) -> None:
    bench.post(STAYS)
    theirs = bench.connected(sleeper.pid)
    bench.ask(seconds=1)
    bench.clock.now += 100
    bench.ask(seconds=7)
    assert sleeper.poll() is None and bench.said == []
    bench.ask(seconds=2)
    assert sleeper.wait(30) == -signal.SIGKILL
    theirs.close()


def test_a_filler_that_says_anything_is_there(bench: Bench, sleeper: subprocess.Popen[bytes]) -> None:
    post = bench.post(STAYS)
    theirs = bench.connected(sleeper.pid)
    for _ in range(5):
        post.ask_whether_there(bench.clock.now)
        bench.clock.now += 7
        post.heard(useful=False)
    post.ask_whether_there(bench.clock.now)
    assert sleeper.poll() is None and bench.said == []
    theirs.close()


def test_a_filler_that_answers_is_not_asked_again_at_once(bench: Bench) -> None:
    post = bench.post(STAYS)
    theirs = bench.connected(0)
    began, asked = bench.clock.now, []
    while bench.clock.now < began + 12.5:
        post.ask_whether_there(bench.clock.now)
        with suppress(BlockingIOError):
            assert theirs.recv(100) == ARE_YOU_THERE
            asked.append(bench.clock.now - began)
            post.heard(useful=False)
        bench.clock.now += 0.25
    assert asked == [0, 4, 8, 12]
    theirs.close()


def test_a_filler_of_ours_whose_connection_ended_is_killed(bench: Bench) -> None:
    post = bench.post(STAYS)
    post.fill()
    pid = int(next(line for line in Path(f"/proc/self/fdinfo/{post.child_fd}").read_text().splitlines()
                   if line.startswith("Pid:")).split()[1])  # fmt: skip
    bench.connected(pid).close()
    post.lose()
    assert (post.connection, post.pid) == (None, 0)
    bench.await_end()


def test_what_does_not_fit_into_the_connection_is_sent_later_and_in_order(bench: Bench) -> None:
    post = bench.post(STAYS)
    theirs = bench.connected(0)
    sent = [b"%06d" % number + b"x" * 2000 for number in range(2000)]
    for message in sent:
        post.tell(message)
    events = dict(bench.poll.poll(0))
    assert post.filler_fd not in events  # full
    found: list[bytes] = []
    while len(found) < len(sent):
        try:
            found.append(theirs.recv(1 << 16))
        except BlockingIOError:
            assert dict(bench.poll.poll(0))[post.filler_fd] & select.EPOLLOUT
            post.send_more()
    assert found == sent
    assert not bench.poll.poll(0)  # and nobody is woken for nothing
    theirs.close()


def test_to_nobody_nothing_is_said_and_what_was_meant_for_the_last_does_not_reach_the_next(
    bench: Bench,
) -> None:
    post = bench.post(STAYS)
    post.tell(b"to nobody")
    first = bench.connected(0)
    for _ in range(2000):
        post.tell(b"x" * 2000)
    first.close()
    post.tell(b"it is gone")
    post.lose()
    second = bench.connected(0)
    post.tell(b"to the second")
    assert second.recv(100) == b"to the second"
    second.close()


def test_what_is_started_holds_what_readers_wait_on_and_is_nobodys_service(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/manager")
    bench.held = {name: handover.memory(name.encode()) for name in handover.STORED}
    found = tmp_path / "found"
    script = "echo $LISTEN_FDNAMES $LISTEN_FDS manager=$NOTIFY_SOCKET; cat /dev/fd/3 /dev/fd/4 /dev/fd/5"
    post = bench.post(["/bin/sh", "-c", f"({script}) >{found}"])
    post.fill()
    bench.await_end()
    for descriptor in bench.held.values():
        os.close(descriptor)
    assert found.read_text() == "group:journal:door 3 manager=\ngroupjournaldoor"


def test_a_program_that_is_not_there_is_said_and_not_tried_again_at_once(bench: Bench) -> None:
    post = bench.post(["/nonexistent/filler"])
    post.fill()
    assert bench.said == ["starting a filler: No such file or directory: /nonexistent/filler"]
    due = post.due()
    assert due is not None and due > bench.clock.now
    post.fill()
    assert len(bench.said) == 1 and post.started == 0


def test_a_silent_filler_that_is_not_seen_from_here_loses_the_post_and_nobody_is_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is 0, which to a signal means the keeper and all of its group."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *words: killed.append(words))
    post = bench.post(STAYS)
    theirs = bench.connected(pid=0)
    post.ask_whether_there(bench.clock.now)
    assert theirs.recv(100) == ARE_YOU_THERE
    bench.ask(seconds=8)
    assert post.connection is None and killed == []
    assert theirs.recv(100) == b""
    theirs.close()
