"""The rest of a stage, had its layout stayed: against a simulation step by step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.review.remaining import RemainingRequest, remaining_seconds

from ..linear_machine import LinearMachine

MACHINE = LinearMachine()
FOOTPRINT = 4
LIVE = st.lists(
    st.builds(
        RemainingRequest,
        group=st.integers(0, 3),
        context_tokens=st.integers(1, 200),
        remaining_tokens=st.integers(0, 60),
    ),
    max_size=16,
)


def seconds(requests: list[RemainingRequest], degree: int = 1) -> float:
    return remaining_seconds(requests, MACHINE, footprint=FOOTPRINT, degree=degree)


def step_by_step(requests: list[RemainingRequest]) -> float:
    """Each group on its own, one step at a time."""
    ends = [0.0]
    for group in range(FOOTPRINT):
        live = [(one.context_tokens, one.remaining_tokens) for one in requests if one.group == group]
        clock = 0.0
        while live := [(context, left) for context, left in live if left]:
            # The clock of the simulation takes a step's context in its middle.
            context = sum(context for context, _ in live) / len(live) + 0.5
            clock += MACHINE.fixed + MACHINE.shared + MACHINE.request * len(live) + MACHINE.token * context
            live = [(context + 1, left - 1) for context, left in live]
        ends.append(clock)
    return max(ends)


@given(requests=LIVE)
def test_it_equals_a_simulation_step_by_step(requests: list[RemainingRequest]) -> None:
    assert seconds(requests) == pytest.approx(step_by_step(requests))


@given(requests=LIVE, data=st.data())
def test_more_tokens_never_take_less_time_where_contexts_cost_nothing(
    requests: list[RemainingRequest], data: st.DataObject
) -> None:
    machine = LinearMachine(token=0.0)
    more = [
        replace(one, remaining_tokens=one.remaining_tokens + data.draw(st.integers(0, 20)))
        for one in requests
    ]
    before, after = (
        remaining_seconds(found, machine, footprint=FOOTPRINT, degree=1) for found in (requests, more)
    )
    assert after >= before * (1 - 1e-12)


@given(requests=LIVE, seed=st.integers(0, 10))
def test_order_and_group_numbers_do_not_matter(requests: list[RemainingRequest], seed: int) -> None:
    shuffled = [replace(one, group=3 - one.group) for one in requests]
    random.Random(seed).shuffle(shuffled)
    assert seconds(shuffled) == pytest.approx(seconds(requests))


def test_the_slowest_group_counts() -> None:
    short = RemainingRequest(group=0, context_tokens=10, remaining_tokens=3)
    long = RemainingRequest(group=1, context_tokens=10, remaining_tokens=30)
    assert seconds([short, long]) == seconds([long])


def test_nothing_is_left_where_all_have_ended() -> None:
    assert seconds([]) == 0.0
    assert seconds([RemainingRequest(group=0, context_tokens=5, remaining_tokens=0)]) == 0.0


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="remaining_tokens: -1 is negative"):
        seconds(
            [
                RemainingRequest(group=0, context_tokens=5, remaining_tokens=3),
                RemainingRequest(group=0, context_tokens=5, remaining_tokens=-1),
            ]
        )
