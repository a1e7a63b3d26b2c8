"""The oracle is at least as good as every plan that can be tried one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taper_policy.oracle import Plan, best_plan, regret
from taper_policy.outlook import Floats
from taper_policy.simulator import SimulatedRequest, StepClock, simulate

DEGREES = (1, 2, 4)


class Steps:
    def __init__(self, degree: int) -> None:
        self._degree = degree

    def seconds(self, batch: Floats, context_tokens: Floats, busy_groups: int) -> Floats:
        seconds: Floats = 1.0 + 8.0 / self._degree + batch + 0.01 * context_tokens
        return seconds


class Machine:
    def steps(self, degree: int) -> Steps:
        return Steps(degree)

    def pause_seconds(
        self, from_degree: int, to_degree: int, requests: Floats, context_tokens: Floats
    ) -> Floats:
        pause: Floats = 20.0 + requests
        return pause


CLOCK = StepClock(Machine(), footprint=4, max_batch=24, max_context=600)


def requests_of(lengths: list[int]) -> list[SimulatedRequest]:
    return [
        SimulatedRequest(rid=f"r{index:02}", prompt="p", prompt_tokens=10, response_tokens=length)
        for index, length in enumerate(lengths)
    ]


def seconds_of(plan: Plan, lengths: list[int]) -> float:
    requests = requests_of(lengths)
    stage = simulate(requests, Machine(), plan.rule(), footprint=4, degree=plan.degree, clock=CLOCK)
    return stage.seconds


@settings(max_examples=40)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=16))
def test_no_plan_that_can_be_tried_one_by_one_is_better(lengths: list[int]) -> None:
    plan, stage = best_plan(requests_of(lengths), Machine(), footprint=4, degrees=DEGREES, clock=CLOCK)
    assert stage.seconds == pytest.approx(seconds_of(plan, lengths))
    static = [seconds_of(Plan(degree=degree), lengths) for degree in DEGREES]
    assert stage.seconds <= min(static) + 1e-9
    singles = [
        seconds_of(Plan(degree=1, widenings=((requests, degree),)), lengths)
        for degree in DEGREES[1:]
        for requests in range(1, len(lengths) + 1)
    ]
    assert stage.seconds <= min(singles) * 1.01


def test_it_widens_for_a_lone_straggler_and_tells_the_plan() -> None:
    plan, stage = best_plan(
        requests_of([20] * 15 + [300]), Machine(), footprint=4, degrees=DEGREES, clock=CLOCK
    )
    assert str(plan) == "degree 1, degree 4 at 1 live"
    assert [switch.to_degree for switch in stage.switches] == [4]


def test_it_does_not_where_lengths_are_alike() -> None:
    plan, _ = best_plan(requests_of([100] * 16), Machine(), footprint=4, degrees=DEGREES, clock=CLOCK)
    assert plan.widenings == ()


@pytest.mark.parametrize(("seconds", "expected"), [(103.0, 0.03), (100.0, 0.0), (99.0, 0.0)])
def test_regret(seconds: float, expected: float) -> None:
    assert regret(seconds, 100.0) == pytest.approx(expected)
    assert regret(seconds, 0.0) == 0.0
