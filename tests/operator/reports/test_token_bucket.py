"""A limit on how often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taper_operator.reports.token_bucket import TokenBucket

from ..clock import Clock


@given(st.lists(st.floats(0, 3), max_size=60))
def test_the_rate_is_bounded_in_any_interval(waits: list[float]) -> None:
    clock = Clock()
    bucket = TokenBucket(per_second=0.5, burst=3, clock=clock)
    taken = []
    for wait in waits:
        clock.now += wait
        if bucket.take():
            taken.append(clock.now)
    for first, begin in enumerate(taken):
        for last, end in enumerate(taken[first:], start=1):
            assert last <= 3 + 0.5 * (end - begin) + 1e-6


def test_interrupted_actions_are_planned_again() -> None:
    clock = Clock()
    bucket = TokenBucket(per_second=1, burst=2, clock=clock)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock.now += 1
    assert [bucket.take() for _ in range(2)] == [True, False]
