"""A token bucket lets a burst through at once, the rest at its rate, and nobody who would wait too long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from registry_client.transport import token_bucket
from registry_client.transport.token_bucket import TokenBucket


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; it stands still but for what a test does."""
    now = [1000.0]
    monkeypatch.setattr(token_bucket, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_burst_goes_through_at_once_and_the_rest_in_turn(clock: list[float]) -> None:
    bucket = TokenBucket(rate=10.0, burst=2)
    assert [round(bucket.take(60.0), 3) for _ in range(4)] == [0, 0, 0.1, 0.2]
    clock[0] += 0.25
    assert round(bucket.take(60.0), 3) == 0.05


def test_who_would_wait_too_long_takes_nothing(clock: list[float]) -> None:
    bucket = TokenBucket(rate=1.0, burst=1)
    assert bucket.take(1.0) == 0
    assert [bucket.take(1.0) for _ in range(5)] == [1.0] * 5
    clock[0] += 0.5
    assert bucket.take(1.0) == 0.5


def test_it_never_holds_more_than_its_burst(clock: list[float]) -> None:
    bucket = TokenBucket(rate=10.0, burst=2)
    clock[0] += 3600
    assert [round(bucket.take(60.0), 3) for _ in range(3)] == [0, 0, 0.1]
