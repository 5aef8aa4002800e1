"""What repeats itself is said a few times a minute, and the rest is counted: times are given."""

from __future__ import annotations

from chunk_store.seldom import SECONDS, Seldom


def test_so_many_of_a_kind_pass_in_a_minute_and_the_next_tells_of_those_left_out() -> None:
    seldom = Seldom(2)
    assert [seldom.passes("kind", 100.0) for _ in range(5)] == [0, 0, None, None, None]
    assert seldom.passes("kind", 100.0 + SECONDS - 0.1) is None
    assert [seldom.passes("kind", 100.0 + SECONDS) for _ in range(3)] == [4, 0, None]


def test_kinds_do_not_count_for_each_other() -> None:
    seldom = Seldom()
    assert [seldom.passes(kind, 100.0) for kind in ("one", "other", "one")] == [0, 0, None]
