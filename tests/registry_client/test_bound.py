"""How many connections are used follows from bandwidth, delay and the size of answers."""

from __future__ import annotations

import pytest

from registry_client.transport.bound import FEWEST, START, ConnectionBound

MOST = 32
MEGABYTE = 1_000_000


def learn(
    bound: ConnectionBound, *, size: int, bandwidth: float, delay: float, share: float = float("inf")
) -> int:
    """What *bound* comes to on a link of *bandwidth* bytes/s of which one connection gets *share* at most."""
    for _ in range(5000):
        rate = min(bandwidth / bound.value, share)
        bound.note(size, delay, delay + size / rate)
    return bound.value


@pytest.mark.parametrize(
    ("size", "bandwidth", "delay", "share", "low", "high"),
    [
        pytest.param(4096, 25 * MEGABYTE, 0.02, 1e12, MOST, MOST, id="small ranges"),
        pytest.param(MEGABYTE, 25 * MEGABYTE, 0.02, 1e12, FEWEST, 6, id="the link is full with two"),
        pytest.param(MEGABYTE, 1250 * MEGABYTE, 0.1, 1e12, 24, MOST, id="a long fat link"),
        pytest.param(MEGABYTE, 1000 * MEGABYTE, 0.02, 10 * MEGABYTE, MOST, MOST, id="a server that rations"),
    ],
)
def test_connections_fit_the_way(
    size: int, bandwidth: float, delay: float, share: float, low: int, high: int
) -> None:
    bound = ConnectionBound(MOST)
    assert bound.value == START
    found = learn(bound, size=size, bandwidth=bandwidth, delay=delay, share=share)
    assert low <= found <= high


def test_a_way_that_changed_is_learnt_anew() -> None:
    bound = ConnectionBound(MOST)
    learn(bound, size=MEGABYTE, bandwidth=1250 * MEGABYTE, delay=0.1)
    few = learn(bound, size=MEGABYTE, bandwidth=25 * MEGABYTE, delay=0.02)
    assert few <= 6
    assert learn(bound, size=MEGABYTE, bandwidth=1250 * MEGABYTE, delay=0.1) >= 24


@pytest.mark.parametrize("most", [1, 2, 3])
def test_never_more_than_the_user_allows(most: int) -> None:
    bound = ConnectionBound(most)
    assert learn(bound, size=4096, bandwidth=MEGABYTE, delay=0.1) == most
    assert learn(bound, size=MEGABYTE, bandwidth=MEGABYTE, delay=0.1) == most
