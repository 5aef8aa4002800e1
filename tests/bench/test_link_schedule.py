"""What a link promises, over an invented clock: order, delay, rate, and a queue that is not endless."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.link_schedule import DEMO_LINK, Direction, LinkShape

SHAPES = st.builds(
    LinkShape,
    delay_seconds=st.floats(0, 1),
    bits_per_second=st.floats(1e4, 1e10),
    queue_seconds=st.floats(0.001, 1),
)
# Seconds since the packet before, and bytes.
ARRIVALS = st.lists(st.tuples(st.floats(0, 0.1), st.integers(40, 1500)), min_size=1, max_size=200)
ROUNDING = 1e-6


def deliveries(
    direction: Direction, arrivals: list[tuple[float, int]]
) -> list[tuple[float, int, float | None]]:
    """Return (came at, bytes, delivered at) of each packet."""
    now, found = 0.0, []
    for pause, size in arrivals:
        now += pause
        found.append((now, size, direction.admit(now, size)))
    return found


@given(SHAPES, ARRIVALS)
def test_packets_arrive_in_order_and_never_before_their_delay(
    shape: LinkShape, arrivals: list[tuple[float, int]]
) -> None:
    last = 0.0
    for came, size, due in deliveries(Direction(shape), arrivals):
        if due is not None:
            assert due >= came + shape.delay_seconds + 8 * size / shape.bits_per_second - ROUNDING
            assert due >= last
            last = due


@given(SHAPES, ARRIVALS)
def test_no_more_bytes_arrive_than_the_rate_allows(
    shape: LinkShape, arrivals: list[tuple[float, int]]
) -> None:
    found = deliveries(Direction(shape), arrivals)
    begin = found[0][0] + shape.delay_seconds
    carried = 0
    for _, size, due in found:
        if due is not None:
            carried += size
            assert 8 * carried <= (due - begin) * shape.bits_per_second * (1 + ROUNDING) + 1


@given(SHAPES, ARRIVALS)
def test_a_packet_is_dropped_only_when_the_queue_is_full(
    shape: LinkShape, arrivals: list[tuple[float, int]]
) -> None:
    backlog_until = 0.0
    for came, size, due in deliveries(Direction(shape), arrivals):
        if due is None:
            assert backlog_until - came > shape.queue_seconds - ROUNDING
        else:
            backlog_until = max(came, backlog_until) + 8 * size / shape.bits_per_second


def test_every_packet_is_either_sent_or_counted_as_dropped() -> None:
    direction = Direction(LinkShape(0.01, 8e6, queue_seconds=0.0105))
    dues = [direction.admit(0.0, 1000) for _ in range(100)]
    # 1 ms each at 8 Mbit/s: ten wait up to 10 ms, the first does not wait; the rest finds a full queue.
    assert (direction.sent, direction.dropped) == (11_000, 89)
    assert dues.count(None) == 89


def test_the_demo_link_is_the_one_that_is_written_about() -> None:
    assert str(DEMO_LINK) == "20 ms, 200 Mbit/s"
    assert DEMO_LINK.floor_seconds(25_000_000) == 1.02
