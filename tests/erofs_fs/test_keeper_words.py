"""Words between keeper and filler: said as they were meant, and never mistaken for one another."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from erofs_fs.keeper_words import ARE_YOU_THERE, HAVE, LOST, NEED, Word, pack_word, parse_word
from tests.support.letters import LETTERS

words = st.builds(
    Word,
    kind=st.sampled_from([NEED, HAVE, LOST]),
    window_id=st.binary(min_size=32, max_size=32).map(bytes.hex),
    end=st.integers(0, 2**64 - 1),
)
texts = st.text(LETTERS, max_size=20)
json_objects = st.dictionaries(texts, st.integers() | texts, max_size=3)


@given(words)
def test_a_word_comes_back_as_it_was(word: Word) -> None:
    assert parse_word(pack_word(word)) == word


@given(json_objects)
def test_no_json_object_is_a_word(said: dict[str, object]) -> None:
    assert parse_word(json.dumps(said).encode()) is None
    assert parse_word(json.dumps(said, ensure_ascii=False).encode(errors="replace")) is None


def test_a_json_object_of_a_words_length_is_none() -> None:
    length = len(pack_word(Word(NEED, "0" * 64, 0)))
    for filling in range(length):
        said = b'{"a": "' + b"x" * filling + b'"}'
        assert parse_word(said) is None
    assert parse_word(ARE_YOU_THERE) is None


@given(st.binary(max_size=100) | st.binary(min_size=48, max_size=48))
def test_any_bytes_are_a_word_or_none(raw: bytes) -> None:
    word = parse_word(raw)
    if word is not None:
        assert word.kind in (NEED, HAVE, LOST)
        assert len(word.window_id) == 64 and bytes.fromhex(word.window_id)
        assert 0 <= word.end < 2**64


@given(words, st.integers(0, 60), st.binary(min_size=1, max_size=9))
def test_a_word_that_was_cut_or_grew_is_none(word: Word, cut: int, behind: bytes) -> None:
    raw = pack_word(word)
    assert parse_word(raw + behind) is None
    assert parse_word(raw[: min(cut, len(raw) - 1)]) is None
