"""What a thread asks for after it was refused: the rest of that call, or something it has not waited for."""

from __future__ import annotations

from chunk_store.recent_failures import GRACE_SECONDS, NOT_AT_ALL, STILL_FAILED_SECONDS
from erofs_fs.refused import Refused

PAGE = 4096
ONE, TWO = 50, 51  # threads


class Bench:
    """What a thread has just been refused, after 25 s: the first page of the window `a`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.refused = Refused(lambda: self.now)
        self.refused.note("a", ONE, 0, PAGE, self.now - 25)
        self.end = self.now + GRACE_SECONDS

    def until(self, window_id: str, page: int, thread: int = ONE) -> float | None:
        return self.refused.until(window_id, thread, page * PAGE, (page + 1) * PAGE)


def test_the_rest_in_the_same_window_may_not_wait_and_what_lies_elsewhere_until_one_time() -> None:
    bench = Bench()
    assert bench.until("a", 1) == NOT_AT_ALL
    assert bench.until("b", 5) == bench.end
    bench.now = bench.end
    bench.refused.note("b", ONE, 5 * PAGE, 6 * PAGE, bench.now - 25)
    assert bench.until("c", 0) == bench.end
    assert bench.until("c", 0, TWO) == bench.end  # who waits for a page of that
    assert bench.until("b", 5) == NOT_AT_ALL  # the page
    assert bench.until("d", 0) is None


def test_who_has_read_ahead_only_may_wait_as_long_as_anybody_once_it_has_got_something() -> None:
    bench = Bench()
    assert bench.until("b", 0) == bench.end
    bench.refused.served(ONE)
    assert bench.until("c", 0) is None


def test_who_reads_a_while_after_a_readahead_was_refused_has_its_own_time() -> None:
    bench = Bench()
    bench.now += STILL_FAILED_SECONDS
    assert bench.until("b", 0) is None


def test_what_another_thread_reads_is_no_rest() -> None:
    bench = Bench()
    assert bench.until("a", 1, TWO) is None
    assert bench.until("b", 0, TWO) is None
