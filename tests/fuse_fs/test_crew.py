"""What goes wrong with every request is not a line for every request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from fuse_fs.crew import Crew

REQUESTS = 20


def test_requests_that_fail_without_end_are_a_line_and_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    left, ended = list(range(REQUESTS)), threading.Event()

    def receive() -> Callable[[], object] | None:
        if not left:
            return None
        left.pop()
        raise KeyError("a defect")

    crew = Crew(receive, ended.set)
    crew.start()
    assert ended.wait(10)
    crew.join(10)
    assert caplog.text.count("answering a request failed") == 1


def test_threads_that_cannot_be_had_are_a_line_and_all_is_done_by_those_there_are(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, ended = list(range(REQUESTS)), threading.Event()
    done: list[int] = []
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if sum(one.name == "fuse" for one in threading.enumerate()):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    crew = Crew(lambda: partial(done.append, left.pop()) if left else None, ended.set)
    crew.start()
    assert ended.wait(10)
    crew.join(10)
    assert sorted(done) == list(range(REQUESTS))
    assert caplog.text.count("cannot start another thread for the mount") == 1
