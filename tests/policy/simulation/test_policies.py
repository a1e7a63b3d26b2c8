"""What each rule sees and answers in a simulated stage."""

from __future__ import annotations

import pytest

from taper_policy.decision.advisor import FEW, Advisor
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.snapshot import Snapshot
from taper_policy.decision.switch_rules import Schedule, SchedulePoint, Threshold, WidenAtOnce
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.profile.estimated import h100_8b
from taper_policy.simulation.policies import PredictorPolicy, following, static
from taper_policy.simulation.simulator import (
    SimulatedReplica,
    SimulatedRequest,
    simulate,
)
from taper_policy.simulation.step_clock import StepClock

PROFILE = h100_8b()
MAX_TOKENS = 4096


def request(index: int, tokens: int = 100) -> SimulatedRequest:
    return SimulatedRequest(
        rid=f"r{index:03}", prompt=f"p{index // 4}", prompt_tokens=100, response_tokens=tokens
    )


def replica(groups: list[int], degree: int = 1, decoded: int = 10) -> SimulatedReplica:
    live = tuple(
        LiveRequest(
            rid=f"r{index:03}",
            prompt=f"p{index // 4}",
            group=group,
            prompt_tokens=100,
            decoded_tokens=decoded,
        )
        for index, group in enumerate(groups)
    )
    running = tuple(groups.count(group) for group in range(4 // degree))
    snapshot = Snapshot(
        footprint=4, degree=degree, at_seconds=1.0, running=running, longest_decoded_tokens=decoded
    )
    return SimulatedReplica(snapshot=snapshot, live=lambda: live)


def test_static_stays() -> None:
    assert static(replica([0])) is None


@pytest.mark.parametrize(
    ("groups", "degree", "answer"),
    [([0, 1, 2], 1, None), ([0, 1], 1, 4), ([0], 2, 4), ([0], 4, None)],
)
def test_the_threshold_counts_live_requests(groups: list[int], degree: int, answer: int | None) -> None:
    found = following(Threshold(requests=2, degree=4))(replica(groups, degree))
    assert (found and found.degree) == answer


@pytest.mark.parametrize(
    ("groups", "degree", "answer"), [([0, 1, 2, 3], 1, None), ([0, 1, 3, 3], 1, 4), ([0, 0], 4, None)]
)
def test_widening_at_once_waits_for_the_first_idle_group(
    groups: list[int], degree: int, answer: int | None
) -> None:
    found = following(WidenAtOnce(degree=4))(replica(groups, degree))
    assert (found and found.degree) == answer


def test_a_schedule_switches_both_ways_in_the_simulator() -> None:
    requests = [request(index, 100) for index in range(8)]
    points = (SchedulePoint(tokens=20, degree=4), SchedulePoint(tokens=60, degree=2))
    clock = StepClock(PROFILE, footprint=8, max_batch=8, max_context=256)
    policy = following(Schedule(points=points))
    stage = simulate(requests, policy, clock, degree=1)
    assert [switch.to_degree for switch in stage.switches] == [4, 2]


def test_the_predictor_learns_each_response_once() -> None:
    requests = [request(index, 20 + 30 * index) for index in range(24)]
    advisor = Advisor(PROFILE, DecisionSettings(degrees=(1, 2, 4, 8)), max_tokens=MAX_TOKENS)
    rule = PredictorPolicy(advisor, step=0)
    clock = StepClock(PROFILE, footprint=8, max_batch=24, max_context=2048)
    stage = simulate(requests, rule, clock, degree=1)
    rule.learn(requests)
    entries = [*rule.decisions, advisor.end_stage()]
    lengths = sorted(response.tokens for entry in entries for response in entry.finished)
    assert lengths == sorted(one.response_tokens for one in requests)
    made = [s.to_degree for s in stage.switches]
    asked_for = [question.choice.degree for question in rule.decisions]
    assert made == [d for before, d in zip([1, *asked_for], asked_for, strict=False) if d != before]


def test_the_predictor_asks_again_as_the_batch_shrinks() -> None:
    rule = PredictorPolicy(
        Advisor(PROFILE, DecisionSettings(degrees=(1, 2, 4, 8)), max_tokens=MAX_TOKENS), step=0
    )
    asked = []
    for count in range(64, 0, -1):
        before = len(rule.decisions)
        rule(replica([index % 4 for index in range(count)]))
        if len(rule.decisions) > before:
            asked.append(count)
    assert asked[0] == 64
    assert asked[-FEW:] == list(range(FEW, 0, -1))
    assert len(asked) < 40
