"""Would switching help this job? The same stages under every static layout, baseline and the predictor.

A job is a sequence of stages; the predictor learns lengths from the stages before, as a live
replica does. Beside the policies stands the oracle: for each stage the best of its own search and
of all policies. Shares and gains carry 95 % bootstrap intervals over stages, which are what repeats.

Invariants (asserted by `tests/policy/simulation/test_comparison.py`):
- all policies run the same requests;
- no policy is faster than the oracle in any stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from taper_policy.arrays import FloatArray
from taper_policy.decision.advisor import Advisor
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.pricing import Prices
from taper_policy.decision.switch_rules import compared_rules
from taper_policy.simulation.oracle import best_plan
from taper_policy.simulation.policies import PredictorPolicy, expected_like, following, static
from taper_policy.simulation.simulator import Policy, SimulatedRequest, SimulatedStage, clock_of, simulate

RESAMPLES = 2000
PREDICTOR, ORACLE = "predictor", "oracle"

Stage = Sequence[SimulatedRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Seconds of each stage by policy, in the order of the stages, and the switches that each policy made."""

    seconds: Mapping[str, FloatArray]
    switches: Mapping[str, Sequence[int]]
    static_policies: tuple[str, ...]

    def best_static(self) -> str:
        """The static layout that takes least in all."""
        return min(self.static_policies, key=lambda policy: (float(self.seconds[policy].sum()), policy))

    def regret(self, policy: str) -> FloatArray:
        """Of each stage: how much longer than the oracle's it took, as a share."""
        shares: FloatArray = self.seconds[policy] / self.seconds[ORACLE] - 1.0
        return shares

    def gain_over(self, policy: str, baseline: str) -> tuple[float, float, float]:
        """Share of the baseline's time that `policy` saves over all stages: mean, and its 95 % interval."""
        ours, theirs = self.seconds[policy], self.seconds[baseline]
        picks = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
        shares = 1.0 - ours[picks].sum(axis=1) / theirs[picks].sum(axis=1)
        low, high = np.quantile(shares, (0.025, 0.975))
        return float(1.0 - ours.sum() / theirs.sum()), float(low), float(high)


def compare(
    stages: Sequence[Stage],
    prices: Prices,
    settings: DecisionSettings,
    *,
    max_tokens: int,
    on_stage: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Run all stages under all policies. `on_stage` is called with the number of finished stages."""
    degrees = settings.degrees
    clock = clock_of(stages, prices, footprint=degrees[-1])
    policies: dict[str, tuple[int, Policy]] = {f"static TP{degree}": (degree, static) for degree in degrees}
    static_policies = tuple(policies)
    base, widest = degrees[0], degrees[-1]
    if len(degrees) > 1:
        policies |= {name: (base, following(rule)) for name, rule in compared_rules(widest).items()}
    advisor = Advisor(prices, settings, max_tokens=max_tokens)
    seconds: dict[str, list[float]] = {}
    switches: dict[str, list[int]] = {}

    def note(policy: str, stage: SimulatedStage) -> None:
        seconds.setdefault(policy, []).append(stage.seconds)
        switches.setdefault(policy, []).append(len(stage.switches))

    for step, requests in enumerate(stages):
        for name, (degree, policy) in policies.items():
            note(name, simulate(requests, policy, clock, degree=degree))
        predictor = PredictorPolicy(advisor, step=step)
        # As many requests as the stage before; the number in a job's first stage is known from its settings.
        expected = expected_like(stages[max(0, step - 1)])
        begin = advisor.first_layout(expected).degree
        note(PREDICTOR, simulate(requests, predictor, clock, degree=begin))
        predictor.learn(requests)
        _, best = best_plan(requests, clock, degrees=degrees)
        note(ORACLE, best)
        seconds[ORACLE][-1] = min(values[-1] for values in seconds.values())
        on_stage(step + 1)
    return Comparison(
        seconds={policy: np.array(values) for policy, values in seconds.items()},
        switches=switches,
        static_policies=static_policies,
    )
