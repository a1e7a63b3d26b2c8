"""Compares a finished stage with static layouts and the best plan, all simulated with its true lengths.

The stage as it ran (its first layout, its requests in their groups, and its switches, placed by the
number of tokens that had been decoded) is simulated beside each static layout and the best plan
(`oracle`). `regret` compares simulated plans, so that errors of the profile cancel; `model_error`
compares the simulation with the stage's real duration.

In other layouts than the first, requests are distributed as the router distributes them. The search need
not find the best plan: the best is therefore the fastest of everything that was simulated.

Invariants (asserted by `tests/policy/review/test_review.py`):
- no plan is faster than the best one: no regret is below 0;
- a stage without a switch takes what its static layout takes;
- does not depend on the order of the requests or on the numbering of groups;
- a simulated stage, reviewed, takes what it took in the simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from taper_policy.arrays import FloatArray, IntArray
from taper_policy.decision.correction import CorrectedPrices, Correction
from taper_policy.profile.profile import Profile
from taper_policy.simulation.oracle import best_plan
from taper_policy.simulation.simulator import SimulatedRequest, clock_of, initial_batches
from taper_policy.simulation.step_clock import StepClock
from taper_policy.simulation.timeline import Batches, Timeline

# Moments tried at once, and how often between two of them, to find when so many tokens were made.
MOMENTS: Final = 65
ROUNDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest(SimulatedRequest):
    """A request of a stage that has ended, and its first `group`. Rids ascend in the order of arrival."""

    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSwitch:
    """A switch that was made.

    degree: of the layout after it
    made_tokens: of all responses of the stage until then
    groups: after it, of the requests that lived through it, by rid
    """

    degree: int
    made_tokens: int
    groups: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStage:
    """A stage as it was: began at `degree`, took `seconds`. All requests were there from the start.

    prefilled_tokens: of the group with most, before the first switch
    """

    footprint: int
    degree: int
    seconds: float
    prefilled_tokens: int
    requests: tuple[RecordedRequest, ...]
    moves: tuple[RecordedSwitch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReview:
    """Real and simulated seconds of a stage.

    prefill_seconds: simulated prefill of the first layout; not part of any plan's seconds
    static_seconds: by degree
    regret: how much longer than the best plan, as a share
    gain_over_best_static: share of the best static layout's seconds that was saved; below 0 where it was lost
    model_error: how much longer the stage took than simulated, as a share
    """

    actual_seconds: float
    executed_seconds: float
    prefill_seconds: float
    static_seconds: Mapping[int, float]
    best_seconds: float
    best_plan: str
    regret: float
    gain_over_best_static: float
    model_error: float

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"static_seconds": {str(d): value for d, value in self.static_seconds.items()}}


def review(
    stage: RecordedStage, profile: Profile, degrees: Sequence[int], correction: Correction | None = None
) -> StageReview:
    """The stage beside every static layout of `degrees`, and the best plan; steps with `correction`.

    Raises `ValueError` for a stage without requests, a response of no tokens, and what the profile
    cannot price.
    """
    if not stage.requests:
        raise ValueError("requests: a stage without any")
    requests = as_simulated(stage)
    prices = CorrectedPrices(profile, correction or Correction())
    clock = clock_of([requests], prices, footprint=stage.footprint)
    executed = _executed_seconds(stage, clock)
    static = {
        degree: _last_end(
            Timeline(initial_batches(requests, footprint=stage.footprint, degree=degree), clock)
        )
        for degree in degrees
    }
    static[stage.degree] = _last_end(Timeline(_first(stage), clock))
    plan, best = best_plan(requests, clock, degrees=degrees)
    tried = [(best.seconds, str(plan)), (executed, "as it ran")]
    tried += [(seconds, f"degree {degree}") for degree, seconds in static.items()]
    best_seconds, best_name = min(tried)
    best_static = min(static.values())
    prefill_seconds = profile.prefill_seconds(stage.degree, stage.prefilled_tokens)
    return StageReview(
        actual_seconds=stage.seconds,
        executed_seconds=executed,
        prefill_seconds=prefill_seconds,
        static_seconds=dict(sorted(static.items())),
        best_seconds=best_seconds,
        best_plan=best_name,
        regret=executed / best_seconds - 1.0 if best_seconds > 0 else 0.0,
        gain_over_best_static=1.0 - executed / best_static if best_static > 0 else 0.0,
        model_error=stage.seconds / (executed + prefill_seconds) - 1.0,
    )


def as_simulated(stage: RecordedStage) -> list[RecordedRequest]:
    """The requests in an order in which dealing them in turn gives the first groups, if those were even."""
    groups: dict[int, list[RecordedRequest]] = {}
    for request in sorted(stage.requests, key=lambda request: request.rid):
        groups.setdefault(request.group, []).append(request)
    rows = sorted(groups.values(), key=lambda row: (-len(row), row[0].rid))
    return [row[place] for place in range(len(rows[0])) for row in rows if place < len(row)]


def _first(stage: RecordedStage) -> Batches:
    groups = [request.group for request in stage.requests]
    return replace(
        initial_batches(stage.requests, footprint=stage.footprint, degree=stage.degree),
        groups=np.array([groups], dtype=np.int64),
    )


def _executed_seconds(stage: RecordedStage, clock: StepClock) -> float:
    # No step makes a response's first token: the prefill does.
    batches, counted, last = _first(stage), len(stage.requests), 0.0
    for move in stage.moves:
        timeline = Timeline(batches, clock)
        moment = _moment(timeline, batches, move.made_tokens - counted)
        after, _ = timeline.switched(move.degree, moment)
        is_live = after.left > 0
        if not is_live.any():
            break
        last = max(last, float((timeline.ends_at * ~is_live).max()))
        counted += int((batches.left - after.left).sum())
        batches = replace(after, groups=_groups_after(stage.requests, after, move))
    return max(last, _last_end(Timeline(batches, clock)))


def _moment(timeline: Timeline, batches: Batches, tokens: int) -> FloatArray:
    """When so many tokens were made since the timeline began `[1]`."""
    # An end first: there a moment is exact, since those after it count the next step as under way.
    moments = np.concatenate([batches.at_seconds, np.sort(timeline.ends_at[0][batches.left[0] > 0])])
    for _ in range(1 + ROUNDS):
        is_enough = timeline.boundary(moments)[0].sum(axis=1) >= tokens
        place = int(is_enough.argmax()) if is_enough.any() else len(moments) - 1
        low, high = float(moments[max(0, place - 1)]), float(moments[place])
        moments = np.linspace(low, high, MOMENTS)
    return np.array([high])


def _groups_after(requests: Sequence[RecordedRequest], joined: Batches, move: RecordedSwitch) -> IntArray:
    # A request that is live only in the simulation has no recorded group: it stays with its neighbours.
    groups = [
        move.groups.get(request.rid, group)
        for request, group in zip(requests, joined.groups[0].tolist(), strict=True)
    ]
    return np.array([groups], dtype=np.int64)


def _last_end(timeline: Timeline) -> float:
    return float(timeline.ends_at.max())
