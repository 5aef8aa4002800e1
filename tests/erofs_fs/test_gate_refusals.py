"""Who was refused at the gate, and what the kernel asks for on his behalf after that."""

from __future__ import annotations

from chunk_store.recent_failures import GRACE_SECONDS, OWN_SECONDS, STILL_FAILED_SECONDS
from tests.erofs_fs.gate_bench import NO, PAGE, YES, Bench, is_open, name_of


def test_who_was_refused_is_refused_again_when_the_kernel_asks_for_the_page_however_late(
    bench: Bench,
) -> None:
    readahead = bench.take(0, PAGE, 4 * PAGE, thread=50)
    bench.clock.now += 19
    bench.gate.lost(name_of(0))
    bench.clock.now += OWN_SECONDS * 0.9
    page = bench.take(0, 2 * PAGE, PAGE, thread=50)
    assert bench.answers() == [(readahead, NO), (page, NO)]
    bench.clock.now += STILL_FAILED_SECONDS
    bench.take(0, 2 * PAGE, PAGE, thread=50)  # for the process itself
    assert bench.answers() == [] and len(bench.needed) == 2


def test_who_has_not_waited_is_not_refused_with_those_who_have(bench: Bench) -> None:
    refused = bench.take(0, 0, 4 * PAGE, thread=50)
    bench.clock.now += 19
    bench.gate.lost(name_of(0))
    assert bench.answers() == [(refused, NO)]
    other = bench.take(0, 4 * PAGE, PAGE, thread=51)
    assert bench.answers() == []
    bench.gate.have(name_of(0), 5 * PAGE)
    assert bench.answers() == [(other, YES)]


def test_those_who_have_waited_for_one_page_behind_each_other_wait_a_little_longer_than_the_first(
    bench: Bench,
) -> None:
    """The kernel asks for them one after another, and not before the one in front was answered."""
    first = bench.take(0, 0, 4 * PAGE, thread=50)
    bench.clock.now += 15
    other = bench.take(1, 0, PAGE, thread=49)
    bench.wait(5)
    assert bench.answers() == [(first, NO)]
    bench.clock.now += 1
    second = bench.take(0, PAGE, PAGE, thread=51)
    bench.wait(GRACE_SECONDS - 1.1)
    assert bench.answers() == []
    bench.wait(0.2)
    assert bench.answers() == [(second, NO)]
    for thread in range(52, 55):
        number = bench.take(0, PAGE, PAGE, thread=thread)
        assert bench.answers() == [(number, NO)]
    bench.clock.now += STILL_FAILED_SECONDS
    bench.take(0, PAGE, PAGE, thread=55)
    assert bench.answers() == []
    assert is_open(other)


def test_who_reads_again_what_has_just_failed_gets_it_if_it_comes_soon(bench: Bench) -> None:
    refused = bench.take(0, 0, PAGE, thread=50)
    bench.wait(20)
    again = bench.take(0, 0, PAGE, thread=51)
    assert bench.needed == [(name_of(0), PAGE)] * 2
    bench.gate.have(name_of(0), PAGE)
    assert bench.answers() == [(refused, NO), (again, YES)]


def test_a_readahead_waits_once_for_a_window_and_a_little_longer_for_what_lies_in_others(
    bench: Bench,
) -> None:
    bench.take(0, 0, PAGE, thread=50)
    bench.wait(20)
    bench.take(0, PAGE, PAGE, thread=50)  # its rest
    assert [response for _, response in bench.answers()] == [NO] * 2
    bench.take(1, 0, PAGE, thread=50)  # its rest, or what it reads next
    bench.wait(GRACE_SECONDS - 0.1)
    assert bench.answers() == []
    bench.wait(0.2)
    bench.take(1, PAGE, PAGE, thread=50)
    bench.take(2, 0, PAGE, thread=50)
    bench.take(0, 0, PAGE, thread=50)  # the page
    assert [response for _, response in bench.answers()] == [NO] * 4
    bench.take(1, 2 * PAGE, PAGE, thread=50)  # what it reads next
    bench.wait(19)
    assert bench.answers() == []


def test_who_waits_for_a_page_of_a_readahead_waits_no_longer_than_that_whatever_range_the_page_is_of(
    bench: Bench,
) -> None:
    bench.take(0, 0, PAGE, thread=50)
    bench.wait(20)
    bench.take(0, PAGE, 4 * PAGE, thread=50)
    bench.take(0, 3 * PAGE, PAGE, thread=51)
    bench.take(1, 0, 4 * PAGE, thread=50)
    bench.wait(GRACE_SECONDS)
    bench.take(1, 2 * PAGE, PAGE, thread=52)
    assert [response for _, response in bench.answers()] == [NO] * 5


def test_threads_that_cannot_be_told_apart_are_not_taken_for_one(bench: Bench) -> None:
    refused = bench.take(0, 0, PAGE, thread=0)
    bench.clock.now += 19
    bench.gate.lost(name_of(0))
    page = bench.take(0, 0, PAGE, thread=0)
    bench.take(1, 0, PAGE, thread=0)
    assert bench.answers() == [(refused, NO), (page, NO)]
