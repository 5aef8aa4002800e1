"""A value made when it is first asked for."""

from __future__ import annotations

import threading
import time

import pytest

from launch.once import Once


def test_many_who_ask_at_once_get_what_was_made_once() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        time.sleep(0.05)
        return 7

    once = Once(make)
    assert made == []
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(once.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [7] * 8
    assert made == [1]


def test_after_an_error_the_next_one_tries() -> None:
    outcomes: list[OSError | int] = [3, OSError("not now")]

    def make() -> int:
        outcome = outcomes.pop()
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    once = Once(make)
    with pytest.raises(OSError, match="not now"):
        once.get()
    assert once.get() == 3
    assert once.get() == 3
