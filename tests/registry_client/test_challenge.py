"""WWW-Authenticate headers as registries really send them, and as nobody should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_client.transport.challenge import Challenge, parse_challenges, preferred
from tests.registry_client.cases import Server, case
from tests.support.letters import LATIN, LETTERS


def bearer(**parameters: str) -> Challenge:
    return Challenge("bearer", parameters)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"'],
            [bearer(realm="https://a/t", service="s", scope="repository:a/b:pull,push")],
        ),
        (['BEARER Realm = "r" , SCOPE="x"'], [bearer(realm="r", scope="x")]),
        ([r'Bearer realm="a\"b\\c,d"'], [bearer(realm='a"b\\c,d')]),
        (["Bearer realm=https://a/t?x=y"], [bearer(realm="https://a/t?x=y")]),
        (
            ['Basic realm="b", Bearer realm="r",service=s', "Digest nonce=1"],
            [
                Challenge("basic", {"realm": "b"}),
                bearer(realm="r", service="s"),
                Challenge("digest", {"nonce": "1"}),
            ],
        ),
        (["Negotiate"], [Challenge("negotiate", {})]),
        (
            ["Negotiate abc==, Basic realm=x"],
            [Challenge("negotiate", {"abc": "="}), Challenge("basic", {"realm": "x"})],
        ),
        (['Bearer realm="first",realm="second"'], [bearer(realm="first")]),
        (['Bearer realm="never closed'], [bearer(realm="never closed")]),
        (['realm="no scheme"'], []),
        ([], []),
        ([",, ,"], []),
    ],
)
@case(13, on=Server.NONE)
def test_headers_are_taken_apart(headers: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(headers) == expected


@case(13, on=Server.NONE)
def test_bearer_goes_before_basic_wherever_it_stands() -> None:
    basic, token = Challenge("basic", {}), bearer(realm="r")
    assert preferred([basic, token]) is token
    assert preferred([basic, bearer()]) is basic
    assert preferred([Challenge("digest", {})]) is None


TOKENS = st.text(alphabet="abcXYZ019-_.", min_size=1, max_size=8)
VALUES = st.text(LATIN[32:], max_size=20)


@given(
    st.lists(
        st.tuples(TOKENS, st.dictionaries(TOKENS.map(str.lower), VALUES, min_size=1, max_size=4)), max_size=4
    )
)
def test_what_is_quoted_properly_is_read_back_exactly(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quote(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ",".join(f"{name}={quote(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert parse_challenges([header]) == [
        Challenge(scheme.lower(), parameters) for scheme, parameters in challenges
    ]


@given(st.lists(st.text(LETTERS, max_size=60), max_size=3))
def test_nothing_makes_the_parser_fail(headers: list[str]) -> None:
    assert all(challenge.scheme for challenge in parse_challenges(headers))


def test_a_huge_header_is_cut_and_quick() -> None:
    assert len(parse_challenges(["x=" * 1_000_000, "Bearer realm=r"])) == 0
    parse_challenges(['a="' + "\\" * 100_000])
