"""What the predictor would have saved is what the simulator gives for the two runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.ledger import FinishedResponse
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.profile.estimated import h100_8b
from taper_policy.review.advice import AdviceEstimator, total_gain
from taper_policy.simulation.length_distributions import lengths
from taper_policy.simulation.policies import PredictorPolicy, expected_like, static
from taper_policy.simulation.simulator import SimulatedRequest, clock_of, simulate

PROFILE = h100_8b()
MAX_TOKENS = 4096
RULES = DecisionSettings(degrees=PROFILE.degrees)
# With a margin that what is expected decides about.
PICKY = DecisionSettings(degrees=PROFILE.degrees, predictor=PredictorSettings(margin_seconds=5.0))


def stage(seed: int) -> list[SimulatedRequest]:
    drawn = lengths("lognormal", num_prompts=4, num_samples=8, max_tokens=MAX_TOKENS, seed=seed)
    return [
        SimulatedRequest(rid=f"{p}-{s}", prompt=f"p{p}", prompt_tokens=200, response_tokens=int(drawn[p, s]))
        for p, s in np.ndindex(*drawn.shape)
    ]


def test_the_gain_is_what_the_simulator_gives() -> None:
    advice = AdviceEstimator(PROFILE, PICKY, max_tokens=MAX_TOKENS)
    advisor = Advisor(PROFILE, PICKY, max_tokens=MAX_TOKENS)
    found = []
    for step in (1, 2, 3):
        requests = stage(step)
        clock = clock_of([requests], PROFILE, footprint=8)
        rule = PredictorPolicy(advisor, step=step)
        first = 1
        if step > 1:
            first = advisor.first_layout(expected_like(stage(step - 1))).degree
        expected = simulate(requests, rule, clock, degree=first)
        rule.learn(requests)
        staying = simulate(requests, static, clock, degree=1)
        found.append(advice.judge(step, requests))
        assert found[-1].gain_seconds == pytest.approx(staying.seconds - expected.seconds)
        assert (found[-1].first_degree, found[-1].num_switches) == (first, len(expected.switches))
        assert 0 < found[-1].half_width_seconds < staying.seconds
    assert {one.first_degree == 1 for one in found} == {True, False}
    assert any(one.num_switches for one in found)


def test_without_a_switch_nothing_is_saved_for_sure() -> None:
    stay = DecisionSettings(degrees=PROFILE.degrees, predictor=PredictorSettings(margin_seconds=1e6))
    found = AdviceEstimator(PROFILE, stay, max_tokens=MAX_TOKENS).judge(1, stage(1))
    assert (found.gain_seconds, found.half_width_seconds, found.num_switches) == (0.0, 0.0, 0)


def test_it_learns_from_stages_that_it_cannot_judge() -> None:
    learned, unlearned = (AdviceEstimator(PROFILE, PICKY, max_tokens=MAX_TOKENS) for _ in range(2))
    learned.learn(1, [FinishedResponse("other", 3)] * 500)
    unlearned.learn(1, [])
    assert learned.judge(2, stage(2)) != unlearned.judge(2, stage(2))


def test_the_profiles_part_adds_up_and_the_spread_does_not() -> None:
    assert total_gain([], []) == (0.0, 0.0)
    assert total_gain([3.0], [0.5]) == (3.0, 0.5)
    gain, width = total_gain([1.0, 3.0], [0.5, 0.5])
    assert gain == 4.0
    assert width == pytest.approx(math.hypot(1.0, 1.96 * math.sqrt(2) * math.sqrt(2)))
    surer = total_gain([1.0, 3.0] * 50, [0.0] * 100)
    assert surer[1] / surer[0] < total_gain([1.0, 3.0], [0.0, 0.0])[1] / 4.0 / 5
