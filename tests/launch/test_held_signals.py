"""A signal that ends the process waits while it would leave something behind, and has its effect then."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from launch.held_signals import ENDING, HeldSignals


class Ended(Exception):
    """What the process does about a signal."""


@pytest.fixture(autouse=True)
def _ended_by_signals() -> Iterator[None]:
    def end(number: int, _: FrameType | None) -> None:
        raise Ended(number)

    former = {number: signal.signal(number, end) for number in ENDING}
    yield
    for number, action in former.items():
        signal.signal(number, action)


@pytest.mark.parametrize("number", ENDING)
def test_a_held_signal_has_its_effect_when_it_is_released(number: int) -> None:
    done = []
    with pytest.raises(Ended, match=str(int(number))), HeldSignals() as held:
        held.hold()
        os.kill(os.getpid(), number)
        done.append("held")
        held.release(lambda: done.append("undone"))
        done.append("not reached")
    assert done == ["held", "undone"]


def test_what_is_left_by_an_error_lets_signals_have_their_effect(number: int = signal.SIGTERM) -> None:
    with pytest.raises(Ended), HeldSignals() as held:
        held.hold()
        os.kill(os.getpid(), number)
        raise ValueError
    with pytest.raises(Ended):
        os.kill(os.getpid(), number)


def test_nothing_is_held_before_and_after(number: int = signal.SIGTERM) -> None:
    with pytest.raises(Ended), HeldSignals():
        os.kill(os.getpid(), number)
    with HeldSignals() as held:
        held.hold()
        held.release()
        with pytest.raises(Ended):
            os.kill(os.getpid(), number)


def test_only_the_first_signal_interrupts_what_is_waited_for(number: int = signal.SIGHUP) -> None:
    def interrupt() -> None:
        raise InterruptedError

    with HeldSignals() as held:
        held.hold(interrupt)
        with pytest.raises(InterruptedError):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Ended, match=str(int(number))):
            held.release()


def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with HeldSignals() as held:
        held.hold()
        os.kill(os.getpid(), signal.SIGHUP)
        assert held.noted == []


def test_a_signal_that_another_thread_takes_is_held_too() -> None:
    ended = threading.Event()
    waiting = threading.Thread(target=ended.wait)
    waiting.start()
    try:
        with pytest.raises(Ended), HeldSignals() as held:
            held.hold()
            signal.pthread_kill(waiting.ident or 0, signal.SIGTERM)
            deadline = time.monotonic() + 10
            while not held.noted and time.monotonic() < deadline:
                time.sleep(0.01)
    finally:
        ended.set()
        waiting.join()
