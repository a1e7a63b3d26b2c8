"""Held-out stages: the predictor's regret is within its bar, with a CPU profile and two GPU-shaped ones.

Settings were tuned on seeds below 100; these stages were not looked at for that. `benchmarks/regret.py`
runs many more of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from taper_policy.decision.decide import DecisionSettings
from taper_policy.profile.estimated import a40_14b, h100_8b
from taper_policy.profile.file import read_profile
from taper_policy.profile.profile import Profile
from taper_policy.simulation.comparison import ORACLE, PREDICTOR, Comparison, compare
from taper_policy.simulation.length_distributions import REGIMES, lengths
from taper_policy.simulation.simulator import SimulatedRequest

HELD_OUT_SEED = 901
NUM_STAGES = 12
CPU_FILE = Path(__file__).parents[3] / "benchmarks" / "parts" / "cpu_71m.json"
# Profile, prompts a stage, samples a prompt, cap of a response.
SETTINGS = {
    "cpu": (lambda: read_profile(CPU_FILE), 4, 4, 1024),
    "h100": (h100_8b, 16, 8, 8192),
    "a40": (a40_14b, 16, 8, 8192),
}


def stage(regime: str, step: int, prompts: int, samples: int, cap: int) -> list[SimulatedRequest]:
    drawn = lengths(
        regime, num_prompts=prompts, num_samples=samples, max_tokens=cap, seed=HELD_OUT_SEED * 1000 + step
    )
    return [
        SimulatedRequest(
            rid=f"{step}-{prompt}-{sample}",
            prompt=f"{step}-{prompt}",
            prompt_tokens=64,
            response_tokens=int(drawn[prompt, sample]),
        )
        for prompt in range(prompts)
        for sample in range(samples)
    ]


@cache
def compared(name: str, regime: str) -> Comparison:
    made, prompts, samples, cap = SETTINGS[name]
    profile: Profile = made()
    stages = [stage(regime, step, prompts, samples, cap) for step in range(NUM_STAGES)]
    return compare(
        stages,
        profile,
        DecisionSettings(degrees=profile.degrees),
        max_tokens=cap,
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_regret_is_within_the_bar(name: str) -> None:
    regrets = np.concatenate([compared(name, regime).regret(PREDICTOR) for regime in REGIMES])
    assert regrets.mean() <= 0.03
    assert np.quantile(regrets, 0.95) <= 0.08


@pytest.mark.parametrize("name", SETTINGS)
def test_no_job_is_more_than_a_percent_slower_than_its_best_static_layout(name: str) -> None:
    for regime in REGIMES:
        found = compared(name, regime)
        assert found.gain_over(PREDICTOR, found.best_static())[0] > -0.01, regime


@pytest.mark.parametrize("regime", ["bimodal", "siblings"])
def test_most_of_what_the_oracle_gains_is_gained(regime: str) -> None:
    found = compared("h100", regime)
    best = found.best_static()
    assert found.gain_over(PREDICTOR, best)[0] >= 0.9 * found.gain_over(ORACLE, best)[0]
