"""The best plan for a stage whose lengths are known, and regret against it.

A plan begins in some layout and widens when the live count has fallen to given numbers.
The search begins with the plan that `decision` would make if its only scenario were the
truth, and moves its numbers as long as the simulated stage gets shorter; every static
layout is a plan, too. It is a search, not a proof: regret is therefore taken against the
best of this and of whatever else was run.

Invariants (asserted by `tests/policy/test_oracle.py`):
- never slower than any static layout, nor than the plan that `decision` makes of the truth;
- on stages small enough to try every single widening, within 1 % of the best of them;
- regret is not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from taper_policy.decision import Prices, planned
from taper_policy.outlook import Outlook
from taper_policy.simulator import (
    Rule,
    SimulatedReplica,
    SimulatedRequest,
    SimulatedStage,
    StepClock,
    simulate,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Begin at `degree`; then, for each (requests, degree) in turn, widen once so few are live."""

    degree: int
    widenings: tuple[tuple[int, int], ...] = ()

    def rule(self) -> Rule:
        """The plan as a rule of one stage."""

        def follow(replica: SimulatedReplica) -> tuple[int, str] | None:
            due = [degree for requests, degree in self.widenings if len(replica.live) <= requests]
            return (due[-1], "planned") if due and due[-1] > replica.degree else None

        return follow

    def __str__(self) -> str:
        later = "".join(f", degree {degree} at {requests} live" for requests, degree in self.widenings)
        return f"degree {self.degree}{later}"


def best_plan(
    requests: Sequence[SimulatedRequest],
    prices: Prices,
    *,
    footprint: int,
    degrees: Sequence[int],
    clock: StepClock,
) -> tuple[Plan, SimulatedStage]:
    """The best plan found, and the stage that it gives."""
    tried: dict[Plan, SimulatedStage] = {}

    def seconds(plan: Plan) -> float:
        if plan not in tried:
            tried[plan] = simulate(
                requests, prices, plan.rule(), footprint=footprint, degree=plan.degree, clock=clock
            )
        return tried[plan].seconds

    for degree in degrees:
        seconds(Plan(degree=degree))
    for plan in _first_plans(requests, prices, footprint, degrees):
        _improved(plan, seconds, len(requests))
    best = min(tried, key=lambda plan: (tried[plan].seconds, len(plan.widenings), str(plan)))
    return best, tried[best]


def regret(seconds: float, best_seconds: float) -> float:
    """How much longer a stage took than the best known plan: 0.03 is 3 %. Never below 0."""
    return max(0.0, seconds / best_seconds - 1.0) if best_seconds > 0 else 0.0


def _first_plans(
    requests: Sequence[SimulatedRequest], prices: Prices, footprint: int, degrees: Sequence[int]
) -> Iterator[Plan]:
    base = degrees[0]
    num_groups = footprint // base
    outlook = Outlook.of(
        np.array([[request.response_tokens for request in requests]]),
        [request.prompt_tokens for request in requests],
        [index % num_groups for index in range(len(requests))],
        num_groups=num_groups,
    )
    yield Plan(
        degree=base,
        widenings=planned(outlook, prices, degree=base, degrees=degrees, footprint=footprint),
    )
    for degree in degrees[1:]:
        yield Plan(degree=base, widenings=((max(1, len(requests) // 8), degree),))


def _improved(plan: Plan, seconds: Callable[[Plan], float], num_requests: int) -> None:
    """Move each widening's live count, in ever smaller strides, while that makes the stage shorter."""
    for index in range(len(plan.widenings)):
        stride = max(1, num_requests // 4)
        while stride:
            here = seconds(plan)
            moved = [_moved(plan, index, change, num_requests) for change in (-stride, stride)]
            better = min(moved, key=seconds)
            if seconds(better) < here:
                plan = better
            else:
                stride //= 2


def _moved(plan: Plan, index: int, change: int, num_requests: int) -> Plan:
    widenings = list(plan.widenings)
    requests, degree = widenings[index]
    widenings[index] = (min(num_requests, max(1, requests + change)), degree)
    return Plan(degree=plan.degree, widenings=tuple(widenings))
