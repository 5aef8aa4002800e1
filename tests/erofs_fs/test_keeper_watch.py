"""A keeper that does not look at what comes is killed; one that does, or could not be seen to, is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from erofs_fs import keeper_watch, syscalls
from erofs_fs.journal import Journal, new_journal
from erofs_fs.keeper_watch import KeeperWatch
from erofs_fs.keeper_words import TURN
from tests.support.clock import Clock

START = 100.0


@dataclass
class Scene:
    """A watch whose thread is called by the test, a keeper, and what became of it, by seconds since START."""

    watch: KeeperWatch
    clock: Clock
    journal: Journal
    keeper: socket.socket
    asked: list[float] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)

    def pass_time(self, seconds: float, at_each: Callable[[float], float | None] = lambda _: None) -> None:
        """The watch waits and looks until *seconds* have passed; *at_each* is called before each look with
        the time, and says how much later it comes than it should.
        """
        scene, end = self, self.clock.now + seconds

        class Waits:
            def wait(self, pause: float) -> bool:
                scene.hear()
                if scene.clock.now + pause > end:
                    return True
                scene.clock.now += pause
                scene.clock.now += at_each(scene.clock.now - START) or 0
                scene.looks.append(scene.clock.now - START)
                return False

        self.watch._ended = Waits()  # type: ignore[assignment]
        self.watch._look()

    def hear(self) -> None:
        try:
            while self.keeper.recv(100, socket.MSG_DONTWAIT) == TURN:
                self.asked.append(self.clock.now - START)
        except BlockingIOError:
            return


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    clock = Clock()
    monkeypatch.setattr(keeper_watch, "time", clock)
    memory = new_journal(8)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    watch = KeeperWatch()
    watch.end()
    watch._thread.join()
    watch.begin(ours, memory)
    made = Scene(watch, clock, Journal(memory), theirs)

    def kill(connection: socket.socket) -> None:
        assert connection is ours
        made.killed.append(clock.now - START)

    monkeypatch.setattr(syscalls, "kill_listener", kill)
    yield made
    ours.close()
    theirs.close()
    os.close(memory)


def turning(scene: Scene) -> Callable[[float], None]:
    """A keeper that does what it should."""

    def turn(_: float) -> None:
        scene.hear()
        scene.journal.turn(scene.clock.now)

    return turn


def test_a_keeper_that_looks_at_what_comes_is_asked_seldom_and_left_alone(scene: Scene) -> None:
    scene.pass_time(600, turning(scene))
    assert scene.killed == []
    assert len(scene.looks) == 150  # of a mount where nobody waits


@pytest.mark.parametrize(("waited_for", "most"), [(False, 12), (True, 5)])
def test_a_silent_keeper_is_killed_soon_and_sooner_if_somebody_waits(
    scene: Scene, waited_for: bool, most: float
) -> None:
    turn = turning(scene)

    def stopped_at_100(at: float) -> None:
        if waited_for and at == 80:
            scene.watch.needed()
        if at <= 100:
            turn(at)

    scene.pass_time(100 + most, stopped_at_100)
    assert len(scene.killed) == 1


def test_a_filler_that_was_stopped_itself_does_not_take_the_keeper_for_silent(scene: Scene) -> None:
    """And neither is what both have slept through: what the machine was suspended for, or a frozen group."""
    stopped = [4, 5, 3, 100]
    scene.pass_time(600, lambda _: stopped.pop() if stopped else None)
    assert scene.looks[0] == 104
    assert scene.killed[0] >= 100 + 20
    scene.killed.clear()

    def answering(_: float) -> float:
        scene.journal.turn(scene.clock.now + 0.5)  # while we were stopped
        return 0.9

    scene.pass_time(600, answering)
    assert scene.killed == []


def test_a_keeper_that_has_said_that_it_will_be_busy_is_not_missed_until_then(scene: Scene) -> None:
    scene.watch.needed()
    scene.journal.turn(scene.clock.now + 20)
    scene.pass_time(20)
    assert scene.killed == []
    scene.pass_time(9)
    assert len(scene.killed) == 1


def test_another_keeper_is_given_its_time(scene: Scene) -> None:
    watched = scene.watch._watched

    def at_each(at: float) -> None:
        scene.watch._watched = None if 7 <= at < 30 else watched

    scene.pass_time(33, at_each)
    assert scene.killed == []
    scene.pass_time(12, at_each)
    assert len(scene.killed) == 1


def test_a_keeper_that_may_not_be_killed_is_said(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: socket.socket) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(syscalls, "kill_listener", refuse)
    scene.pass_time(12)
    assert "cannot be killed: [Errno 1] Operation not permitted" in caplog.text
