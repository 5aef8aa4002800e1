"""A server that is told to end ends, whichever of its threads the signal comes to, and whenever."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fuse_fs.wake_ups import WakeUp, WakeUps

_TO_ANOTHER_THREAD = """
import signal, sys, threading, time
from fuse_fs.wake_ups import WakeUp, WakeUps
with WakeUps() as wake_ups:
    other = threading.Thread(target=time.sleep, args=(60,), daemon=True)
    other.start()
    # As a signal that comes when the main thread has just begun to wait: its function does not run.
    threading.Timer(0.3, signal.pthread_kill, (other.ident, int(sys.argv[1]))).start()
    assert wake_ups.wait(30) is WakeUp.STOP
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_interrupts_another_thread_wakes_the_main_thread(number: signal.Signals) -> None:
    command = [sys.executable, "-c", _TO_ANOTHER_THREAD, str(int(number))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_call_before_the_waiting_begins_is_not_lost() -> None:
    with WakeUps() as wake_ups:
        threading.Thread(target=wake_ups.call).start()
        assert wake_ups.wait(30) is WakeUp.CALLED
        wake_ups.call()
        assert wake_ups.wait(30) is WakeUp.CALLED
        assert wake_ups.wait(0) is WakeUp.TIME


def test_a_signal_is_preferred_to_a_call_that_came_with_it() -> None:
    with WakeUps() as wake_ups:
        wake_ups.call()
        signal.raise_signal(signal.SIGHUP)
        wake_ups.call()
        assert wake_ups.wait(30) is WakeUp.STOP


def test_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with WakeUps():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_calls_that_nobody_reads_never_block() -> None:
    wake_ups = WakeUps()
    for _ in range(200_000):
        wake_ups.call()
    with wake_ups:
        assert wake_ups.wait(30) is WakeUp.CALLED
