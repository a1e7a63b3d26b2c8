"""The oracle is at least as good as every plan that can be tried one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.simulation.oracle import LayoutPlan, best_plan
from taper_policy.simulation.policies import following
from taper_policy.simulation.simulator import SimulatedRequest, simulate
from taper_policy.simulation.step_clock import StepClock

from ...examples import examples
from ..linear_machine import LinearMachine

DEGREES = (1, 2, 4)


MACHINE = LinearMachine(pause=20.0, pause_request=1.0)
CLOCK = StepClock(MACHINE, footprint=4, max_batch=24, max_context=600)


def requests_of(lengths: list[int]) -> list[SimulatedRequest]:
    return [
        SimulatedRequest(rid=f"r{index:02}", prompt="p", prompt_tokens=10, response_tokens=length)
        for index, length in enumerate(lengths)
    ]


def seconds_of(plan: LayoutPlan, lengths: list[int]) -> float:
    requests = requests_of(lengths)
    stage = simulate(requests, following(plan), CLOCK, degree=plan.degree)
    return stage.seconds


@examples(40)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=16))
def test_no_plan_that_can_be_tried_one_by_one_is_better(lengths: list[int]) -> None:
    plan, stage = best_plan(requests_of(lengths), CLOCK, degrees=DEGREES)
    assert stage.seconds == pytest.approx(seconds_of(plan, lengths))
    static = [seconds_of(LayoutPlan(degree=degree), lengths) for degree in DEGREES]
    assert stage.seconds <= min(static) + 1e-9
    singles = [
        seconds_of(LayoutPlan(degree=1, widenings=((requests, degree),)), lengths)
        for degree in DEGREES[1:]
        for requests in range(1, len(lengths))  # with all of them it would be another way to begin
    ]
    assert stage.seconds <= min([*static, *singles]) * 1.01


@examples(15)
@given(st.lists(st.integers(1, 300), min_size=3, max_size=8))
def test_no_two_widenings_that_can_be_tried_one_by_one_are_better(lengths: list[int]) -> None:
    _, stage = best_plan(requests_of(lengths), CLOCK, degrees=DEGREES)
    pairs = [
        seconds_of(LayoutPlan(degree=1, widenings=((early, 2), (late, 4))), lengths)
        for early in range(2, len(lengths))
        for late in range(1, early)
    ]
    assert stage.seconds <= min(pairs) * 1.02


def test_it_widens_for_a_lone_straggler_and_returns_the_plan() -> None:
    plan, stage = best_plan(requests_of([20] * 15 + [300]), CLOCK, degrees=DEGREES)
    assert str(plan) == "degree 1, degree 4 at 1 live"
    assert [switch.to_degree for switch in stage.switches] == [4]


def test_it_does_not_where_lengths_are_alike() -> None:
    plan, _ = best_plan(requests_of([100] * 16), CLOCK, degrees=DEGREES)
    assert plan.widenings == ()
