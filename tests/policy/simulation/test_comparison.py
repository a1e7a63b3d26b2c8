"""All policies side by side on the same stages."""

from __future__ import annotations

import numpy as np
import pytest

from taper_policy.decision.decide import DecisionSettings
from taper_policy.profile.estimated import a40_14b
from taper_policy.simulation.comparison import ORACLE, PREDICTOR, Comparison, compare
from taper_policy.simulation.length_distributions import lengths
from taper_policy.simulation.simulator import SimulatedRequest

MAX_TOKENS = 1024


def stages(regime: str, count: int) -> list[list[SimulatedRequest]]:
    made = []
    for step in range(count):
        drawn = lengths(regime, num_prompts=6, num_samples=4, max_tokens=MAX_TOKENS, seed=step)
        made.append(
            [
                SimulatedRequest(
                    rid=f"{step}-{index}",
                    prompt=f"{step}-{index // 4}",
                    prompt_tokens=50,
                    response_tokens=int(tokens),
                )
                for index, tokens in enumerate(drawn.ravel())
            ]
        )
    return made


@pytest.fixture(scope="module")
def compared() -> Comparison:
    finished: list[int] = []
    found = compare(
        stages("lognormal", 6),
        a40_14b(),
        DecisionSettings(degrees=(1, 2, 4, 8)),
        max_tokens=MAX_TOKENS,
        on_stage=finished.append,
    )
    assert finished == [1, 2, 3, 4, 5, 6]
    return found


def test_every_arm_ran_every_stage_and_none_beats_the_oracle(compared: Comparison) -> None:
    assert {PREDICTOR, ORACLE, "widen-at-once", "static TP1", "static TP8", "threshold 4"} <= set(
        compared.seconds
    )
    for policy, seconds in compared.seconds.items():
        assert seconds.shape == (6,)
        assert (compared.regret(policy) >= 0).all()
    assert sum(compared.switches["static TP1"]) == 0
    assert max(compared.switches["widen-at-once"]) == 1


def test_the_best_static_layout_is_the_one_that_takes_least_in_all(compared: Comparison) -> None:
    best = compared.best_static()
    assert all(
        compared.seconds[best].sum() <= compared.seconds[policy].sum() + 1e-9
        for policy in compared.static_policies
    )


def test_a_gain_has_an_interval_around_it(compared: Comparison) -> None:
    mean, low, high = compared.gain_over(ORACLE, "static TP1")
    assert low <= mean <= high
    assert 0 < mean < 1
    assert mean == pytest.approx(1 - compared.seconds[ORACLE].sum() / compared.seconds["static TP1"].sum())
    assert compared.gain_over("static TP1", "static TP1") == (0.0, 0.0, 0.0)


def test_equal_jobs_give_equal_results() -> None:
    one, two = (
        compare(
            stages("bimodal", 2),
            a40_14b(),
            DecisionSettings(degrees=(1, 8)),
            max_tokens=MAX_TOKENS,
        )
        for _ in range(2)
    )
    for policy in one.seconds:
        np.testing.assert_array_equal(one.seconds[policy], two.seconds[policy])


def test_with_one_degree_only_the_static_layout_is_left_to_compare() -> None:
    found = compare(stages("uniform", 1), a40_14b(), DecisionSettings(degrees=(8,)), max_tokens=MAX_TOKENS)
    assert set(found.seconds) == {"static TP8", PREDICTOR, ORACLE}
    assert len({float(seconds[0]) for seconds in found.seconds.values()}) == 1
