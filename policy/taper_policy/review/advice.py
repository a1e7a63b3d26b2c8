"""Estimates what the predictor would have saved in stages that stayed in the base layout (`mode: advise`).

Each stage is simulated twice with its true lengths: staying, and under the policy that a replica would
follow, from the first layout that it would have chosen. The policy's advisor learns from stage to stage,
as a replica's would, and is used for nothing else.

A stage's half width is the uncertainty of the profile: the difference between staying and switching that
its intervals allow, from the point at which the layouts differ; before it both take the same steps. Over
stages it adds up, because one profile prices them all. The spread of the gains over stages does not: it
is by how much another run of as many stages would differ. The two are independent.

Invariants (asserted by `tests/policy/review/test_advice.py`):
- without a switch nothing is saved, with no uncertainty;
- the gain is what the simulator gives for the two runs;
- more stages of the same spread narrow the interval of the mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.first_layout import ExpectedStage
from taper_policy.decision.ledger import FinishedResponse
from taper_policy.profile.profile import Profile
from taper_policy.simulation.policies import PredictorPolicy, expected_like, static
from taper_policy.simulation.simulator import SimulatedRequest, SimulatedStage, clock_of, simulate

# Of a normal distribution, for 95 %.
DEVIATIONS = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvisedStage:
    """Simulated seconds of a stage: staying, and following the predictor; half width of the gain."""

    staying_seconds: float
    advised_seconds: float
    half_width_seconds: float
    first_degree: int
    num_switches: int

    @property
    def gain_seconds(self) -> float:
        return self.staying_seconds - self.advised_seconds


class AdviceEstimator:
    """See the module's docstring. One per replica; it gets each of its stages in turn."""

    def __init__(self, profile: Profile, rules: DecisionSettings, *, max_tokens: int) -> None:
        self._profile, self._rules = profile, rules
        self._advisor = Advisor(profile, rules, max_tokens=max_tokens)
        self._expected: ExpectedStage | None = None

    def judge(self, step: int, requests: Sequence[SimulatedRequest]) -> AdvisedStage:
        """A stage of these requests with true lengths. Raises `ValueError` for what cannot be priced."""
        base = self._rules.degrees[0]
        clock = clock_of([requests], self._profile, footprint=self._profile.footprint)
        staying = simulate(requests, static, clock, degree=base)
        policy = PredictorPolicy(self._advisor, step=step)
        first = self._advisor.first_layout(self._expected).degree if self._expected else base
        advised = simulate(requests, policy, clock, degree=first)
        policy.learn(requests)
        self._advisor.end_stage()
        self._expected = expected_like(requests)
        return AdvisedStage(
            staying_seconds=staying.seconds,
            advised_seconds=advised.seconds,
            half_width_seconds=self._half_width_seconds(staying, advised, first),
            first_degree=first,
            num_switches=len(advised.switches),
        )

    def learn(self, step: int, finished: Sequence[FinishedResponse]) -> None:
        """Learn the responses of a stage that cannot be simulated."""
        self._advisor.start_stage(step)
        self._advisor.add_finished(finished)
        self._advisor.end_stage()

    def _half_width_seconds(self, staying: SimulatedStage, advised: SimulatedStage, first: int) -> float:
        base = self._rules.degrees[0]
        # Layouts one after the other: the degree, and when its first step and its last one end.
        parts, degree, begin = [], first, 0.0
        spans: list[tuple[int, float, float]] = []
        for switch in advised.switches:
            spans.append((degree, begin, switch.at_seconds))
            degree, begin = switch.to_degree, switch.at_seconds + switch.pause_seconds
            terms = self._profile.switch[switch.from_degree, switch.to_degree]
            parts.append(switch.pause_seconds * terms.relative_error_p90)
        spans.append((degree, begin, advised.seconds))
        same_until = spans.pop(0)[2] if first == base else 0.0
        parts += [(end - begin) * self._share(degree) for degree, begin, end in spans]
        parts.append((staying.seconds - same_until) * self._share(base))
        return math.hypot(*parts)

    def _share(self, degree: int) -> float:
        """How wrong a step's seconds at a degree may be: as its cells' intervals, or the held-out error."""
        widths = [
            cell.half_width_seconds / cell.seconds for cell in self._profile.cells if cell.degree == degree
        ]
        return max(statistics.median(widths), self._profile.held_out_error or 0.0)


def total_gain(gains: Sequence[float], half_widths: Sequence[float]) -> tuple[float, float]:
    """Seconds saved over all stages, and their 95 % half width; `half_widths` are those of the profile."""
    spread = statistics.stdev(gains) * math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return sum(gains), math.hypot(sum(half_widths), DEVIATIONS * spread)
