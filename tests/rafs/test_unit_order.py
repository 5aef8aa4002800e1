"""No chunk of a unit lies right behind the one that some file goes on from."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rafs.unit_order import ordered_units

Chunks = list[bytes]
Pairs = set[tuple[bytes, bytes]]


def ordered(chunks: Chunks, continued: Pairs) -> list[Chunks]:
    return list(ordered_units(chunks, continued))


def named(text: str) -> Chunks:
    return [letter.encode() for letter in text]


def rows(*files: str) -> Pairs:
    """What goes on with what in files of the chunks that their letters name."""
    return {pair for file in files for pair in pairwise(named(file))}


chunk = st.integers(0, 60).map(lambda number: b"%02d" % number)
chunks = st.lists(chunk, unique=True, min_size=1, max_size=60)


@given(st.data())
def test_every_chunk_lies_once_and_nowhere_right_behind_what_goes_on_with_it(data: st.DataObject) -> None:
    unit = data.draw(chunks)
    files = data.draw(st.lists(st.lists(st.sampled_from(unit), max_size=40), max_size=6))
    continued = {pair for file in files for pair in pairwise(file)}
    found = ordered(unit, continued)
    assert sorted(chunk for one in found for chunk in one) == sorted(unit)
    assert not any(pair in continued for one in found for pair in pairwise(one))
    assert all(len(one) == 1 for one in found[1:])


@given(chunks)
def test_the_order_stays_where_no_file_has_two_of_them_in_a_row(unit: Chunks) -> None:
    assert ordered(unit, set()) == [unit]
    assert ordered(unit, {(chunk, chunk) for chunk in unit}) == [unit]


def test_every_second_chunk_of_a_file_comes_first() -> None:
    assert ordered(named("abcde"), rows("abcde")) == [named("acebd")]
    assert ordered(named("abcdABCD"), rows("abcd", "ABCD")) == [named("acbdACBD")]


def test_what_cannot_lie_behind_its_file_lies_behind_the_next() -> None:
    assert ordered(named("xabyz"), rows("ab")) == [named("xaybz")]
    assert ordered(named("xab"), rows("ab")) == [named("xba")]


def test_other_files_that_have_the_chunks_in_another_order_count_too() -> None:
    assert ordered(named("abcd"), rows("abcd", "bad")) == [named("acbd")]


def test_a_chunk_that_may_lie_beside_no_other_is_a_unit_of_its_own() -> None:
    assert ordered(named("azb"), rows("azbza", "az", "bz")) == [named("ab"), named("z")]


def test_a_chunk_between_all_others_of_a_large_unit_costs_a_few_looks() -> None:
    class Counting:
        looks = 0

        def __contains__(self, pair: object) -> bool:
            self.looks += 1
            return True

    always = Counting()
    found = list(ordered_units([b"%d" % number for number in range(4096)], always))
    assert len(found) == 4096
    assert always.looks < 4096 * 40
