"""How often a process knocks at an API server that does not answer."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_operator.kube.backoff import Backoff
from taper_operator.kube.circuit_breaker import CircuitBreaker
from taper_operator.kube.errors import Unreachable

from ..clock import Clock


@given(
    st.integers(0, 2**32),
    st.lists(st.floats(0.05, 0.5), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.3, 5.0]),
    st.booleans(),
)
def test_ten_attempts_a_minute_however_many_ask(
    seed: int, gaps: list[float], connect_seconds: float, has_answered: bool
) -> None:
    """Threads ask at any pace for some minutes; a refusal takes no time, a silent server some."""
    clock = Clock()
    breaker = CircuitBreaker(clock=clock, random=Random(seed))
    if has_answered:
        breaker.answered()
        breaker.suspect()
    began: list[float] = []
    pending: list[tuple[float, int]] = []
    number = 0
    while clock.now < 250:
        clock.now += gaps[number % len(gaps)]
        number += 1
        while pending and pending[0][0] <= clock.now:
            breaker.failed(pending.pop(0)[1])
        try:
            epoch = breaker.begin()
        except Unreachable as error:
            assert 0 < (error.retry_after_seconds or 0) <= 1
        else:
            began.append(clock.now)
            pending.append((clock.now + connect_seconds, epoch))
    assert max(len([at for at in began if begin <= at < begin + 60]) for begin in began) <= 10
    # The longest wait, what an attempt takes, and how late these threads notice both.
    assert all(later - earlier < 12.5 + connect_seconds + 1.1 for earlier, later in pairwise(began))


def test_after_an_answer_no_request_is_held_back() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock=clock, random=Random(1))
    breaker.failed(breaker.begin())
    assert breaker.is_open
    with pytest.raises(Unreachable):
        breaker.begin()
    clock.now += 2
    breaker.begin()
    breaker.answered()
    assert not breaker.is_open
    for _ in range(20):
        breaker.begin()


def test_attempts_that_failed_together_count_once() -> None:
    clock = Clock()
    breaker = CircuitBreaker(
        clock=clock, random=Random(1), backoff=Backoff(first_seconds=1, cap_seconds=64, jitter=0)
    )
    breaker.answered()
    eras = [breaker.begin() for _ in range(6)]
    for epoch in eras:
        breaker.failed(epoch)
    clock.now += 1
    breaker.begin()


@pytest.mark.parametrize("has_answered", [False, True])
def test_at_first_and_after_a_broken_watch_one_request_finds_out(has_answered: bool) -> None:
    breaker = CircuitBreaker(clock=Clock(), random=Random(1))
    if has_answered:
        breaker.answered()
        breaker.suspect()
    breaker.begin()
    with pytest.raises(Unreachable):
        breaker.begin()
    breaker.suspect()
    with pytest.raises(Unreachable):
        breaker.begin()


@given(st.integers(1, 10**9), st.integers())
def test_a_backoff_stays_between_its_bounds(failures: int, seed: int) -> None:
    backoff = Backoff(first_seconds=0.5, cap_seconds=30, jitter=0.2)
    assert 0.5 <= backoff.delay_seconds(failures, Random(seed)) <= 36
