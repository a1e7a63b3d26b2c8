"""The best plan for a stage whose lengths are known.

A plan begins in some layout and widens when the live count has fallen to given numbers. The
search tries every static layout, then paths of ever more layouts: a path of one more begins with
the best plan that lacks one of its layouts, tries that one at live counts on a coarse ladder, then
at all between. A path that is not better than those it came from is not made longer. Plans of one path
are simulated together (`timeline`). It is a search, not a proof: regret is therefore taken against
the best of this and of whatever else was run.

Invariants (asserted by `tests/policy/simulation/test_oracle.py`):
- never slower than any static layout;
- on stages small enough to try them all, within 1 % of the best plan of one widening, 2 % of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from taper_policy.arrays import FloatArray, IntArray
from taper_policy.decision.decision import Decision
from taper_policy.decision.snapshot import Snapshot
from taper_policy.simulation.policies import following
from taper_policy.simulation.simulator import SimulatedRequest, SimulatedStage, initial_batches, simulate
from taper_policy.simulation.step_clock import StepClock
from taper_policy.simulation.timeline import Timeline

# So few counts are all tried. Of more, each is about so many times the one before.
FEW: Final = 16
LADDER: Final = 1.4
# About so many counts are tried between two of them.
FINER: Final = 12
# A path is tried with one more layout if it takes no more than so many times the best.
PROMISING: Final = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutPlan:
    """Begin at `degree`; then, for each (requests, degree) in turn, widen once so few are live."""

    degree: int
    widenings: tuple[tuple[int, int], ...] = ()

    def decide(self, snapshot: Snapshot) -> Decision | None:
        """The last widening that is due, as a switch rule decides."""
        due = [degree for requests, degree in self.widenings if snapshot.num_running <= requests]
        is_wider = due and due[-1] > snapshot.degree
        return Decision(degree=due[-1], reason="planned") if is_wider else None

    def __str__(self) -> str:
        later = "".join(f", degree {degree} at {requests} live" for requests, degree in self.widenings)
        return f"degree {self.degree}{later}"


def best_plan(
    requests: Sequence[SimulatedRequest], clock: StepClock, *, degrees: Sequence[int]
) -> tuple[LayoutPlan, SimulatedStage]:
    """The best plan found, and the stage that it gives."""
    simulators = {degree: _PlanSimulator(requests, clock, degree) for degree in degrees}
    found: dict[tuple[int, ...], _Found] = {
        (degree,): _static(degree, simulator) for degree, simulator in simulators.items()
    }
    for length in range(2, len(degrees) + 1):
        for path in combinations(degrees, length):
            shorter = [found[part] for part in combinations(path, length - 1) if part in found]
            if not shorter:
                continue
            least = min(found.values()).seconds
            tried = _best_on(path, shorter, simulators[path[0]], enough=PROMISING * least)
            # One layout more is worth a trial only where each so far has been worth it.
            if tried < min(shorter) and tried.seconds <= PROMISING * least:
                found[path] = tried
    best = min(found.values())
    plan = LayoutPlan(degree=best.path[0], widenings=tuple(zip(best.counts, best.path[1:], strict=True)))
    return plan, simulate(requests, following(plan), clock, degree=plan.degree)


class _PlanSimulator:
    """Plans of a stage that begin in one layout, simulated together."""

    def __init__(self, requests: Sequence[SimulatedRequest], clock: StepClock, degree: int) -> None:
        self._begin = initial_batches(requests, footprint=clock.footprint, degree=degree)
        self._clock, self._first = clock, Timeline(self._begin, clock)
        self.num_requests = len(requests)

    def seconds(self, path: Sequence[int], counts: IntArray) -> FloatArray:
        """Seconds of the stage `[plans]`, if plan i takes layout `path[j + 1]` once `counts[i, j]` are live.

        `counts` `[plans, len(path) - 1]` descend within a plan, from less than all down to 1 or more.
        """
        batches, timeline = self._begin, self._first
        last = timeline.ends_at.max(axis=1)
        for degree, live in zip(path[1:], counts.T, strict=True):
            ends = np.sort(timeline.ends_at, axis=1)
            ends = np.broadcast_to(ends, (len(live), self.num_requests))
            at_seconds = np.maximum(batches.at_seconds, ends[np.arange(len(live)), -1 - live])
            batches, _ = timeline.switched(degree, at_seconds)
            timeline = Timeline(batches, self._clock)
            # Where several ended at once none may be left to switch for.
            last = np.maximum(last * ~batches.left.any(axis=1), timeline.ends_at.max(axis=1))
        return np.broadcast_to(last, len(counts))


@dataclass(frozen=True, slots=True, order=True)
class _Found:
    """The best plan found on a path; the least of several is the best."""

    seconds: float
    path: tuple[int, ...]
    counts: tuple[int, ...] = ()

    def lacks(self, path: Sequence[int]) -> int:
        """The index in `counts` at which a count for the one more layout of `path` is to be put in."""
        missing = next((i for i, degree in enumerate(self.path) if degree != path[i]), len(self.path))
        return max(0, missing - 1)


def _static(degree: int, simulator: _PlanSimulator) -> _Found:
    return _Found(float(simulator.seconds((degree,), np.empty((1, 0), np.int64))[0]), (degree,))


def _best_on(
    path: tuple[int, ...], shorter: Sequence[_Found], simulator: _PlanSimulator, *, enough: float
) -> _Found:
    """The best plan found on `path`, beginning with the best that lacks one of its layouts.

    The search goes on only while the stage takes no more than `enough` seconds.
    """
    base = min(shorter)
    at = base.lacks(path)
    best = _placed(path, (*base.counts[:at], 0, *base.counts[at:]), at, simulator, enough=enough)
    for other in range(len(best.counts)):
        if other != at and best < base:
            best = min(best, _placed(path, best.counts, other, simulator, enough=enough))
    return best


def _placed(
    path: tuple[int, ...], counts: tuple[int, ...], at: int, simulator: _PlanSimulator, *, enough: float
) -> _Found:
    """The best plan with another count at `at`; infinitely slow where none fits between its neighbours."""
    lowest = counts[at + 1] + 1 if at + 1 < len(counts) else 1
    highest = counts[at - 1] - 1 if at else simulator.num_requests - 1
    best, tries = _Found(math.inf, path, counts), _ladder(lowest, highest)
    while tries:
        plans = np.tile(np.array(counts), (len(tries), 1))
        plans[:, at] = tries
        seconds = simulator.seconds(path, plans)
        place = int(seconds.argmin())
        best = min(best, _Found(float(seconds[place]), path, tuple(plans[place].tolist())))
        # A layout that is best left at once is best left out.
        if best.seconds > enough or tries[place] == highest > lowest:
            break
        # Between the neighbours of the best there may be a better one.
        low, high = tries[max(0, place - 1)] + 1, tries[min(place + 1, len(tries) - 1)]
        tries = [count for count in range(low, high, max(1, (high - low) // FINER)) if count not in tries]
    return best


def _ladder(lowest: int, highest: int) -> list[int]:
    """Live counts from `lowest` to `highest`: all if they are few, else each a good step above the last."""
    if highest - lowest < FEW:
        return list(range(lowest, highest + 1))
    counts = []
    while lowest < highest:
        counts.append(lowest)
        lowest = max(lowest + 1, int(lowest * LADDER))
    return [*counts, highest]
