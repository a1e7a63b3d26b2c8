"""Switch rules: when each widens, and how a new one is added."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.decision.decision import Decision
from taper_policy.decision.snapshot import Snapshot
from taper_policy.decision.switch_rules import Schedule, SchedulePoint, Threshold, WidenAtOnce
from taper_policy.profile.estimated import h100_8b
from taper_policy.simulation.policies import following
from taper_policy.simulation.simulator import SimulatedRequest, simulate
from taper_policy.simulation.step_clock import StepClock

TAIL = Snapshot(
    at_seconds=10.0,
    degree=1,
    footprint=2,
    running=(1, 2),
    longest_decoded_tokens=40,
)
THRESHOLD = Threshold(requests=3, degree=2)
SCHEDULE = Schedule(
    points=(
        SchedulePoint(tokens=10, degree=2),
        SchedulePoint(tokens=20, degree=1),
        SchedulePoint(tokens=30, degree=2),
    )
)

snapshots = st.builds(
    Snapshot,
    at_seconds=st.floats(0, 1e6),
    footprint=st.just(4),
    degree=st.sampled_from((1, 2, 4)),
    running=st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple),
    waiting=st.integers(0, 2),
    arrivals_settled=st.booleans(),
    longest_decoded_tokens=st.integers(0, 60),
    switches_done_in_stage=st.integers(0, 4),
)


def test_threshold_widens_in_the_tail() -> None:
    assert THRESHOLD.decide(TAIL) == Decision(degree=2, reason="3 running, threshold 3")


def test_threshold_widens_a_stage_that_begins_small() -> None:
    assert THRESHOLD.decide(replace(TAIL, longest_decoded_tokens=0)) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"running": (2, 2)},
        {"running": (0, 0)},
        {"waiting": 1},
        {"arrivals_settled": False},
        {"degree": 2},
        {"degree": 4},
    ],
    ids=str,
)
def test_threshold_stays(change: dict[str, Any]) -> None:
    assert THRESHOLD.decide(replace(TAIL, **change)) is None


@given(snapshot=snapshots, requests=st.integers(1, 20), degree=st.sampled_from((2, 4)))
def test_threshold_only_widens_and_only_a_settled_batch(
    snapshot: Snapshot, requests: int, degree: int
) -> None:
    decision = Threshold(requests=requests, degree=degree).decide(snapshot)
    if decision is not None:
        assert decision.degree == degree > snapshot.degree
        assert snapshot.arrivals_settled
        assert not snapshot.waiting
        assert 1 <= snapshot.num_running <= requests


def drive(
    schedule: Schedule, tokens: list[int], *, failing: frozenset[int] = frozenset()
) -> list[tuple[int, int]]:
    """The switches (tokens, degree) of a stage polled at `tokens`; attempts in `failing` leave the layout."""
    attempts: list[tuple[int, int]] = []
    snapshot = TAIL
    for longest in tokens:
        seen = replace(snapshot, longest_decoded_tokens=longest, switches_done_in_stage=len(attempts))
        decision = schedule.decide(seen)
        if decision is not None:
            if len(attempts) not in failing:
                snapshot = replace(snapshot, degree=decision.degree)
            attempts.append((longest, decision.degree))
    return attempts


def test_schedule_fires_each_point_once_in_order_and_both_ways() -> None:
    assert drive(SCHEDULE, list(range(50))) == [(10, 2), (20, 1), (30, 2)]


def test_schedule_misses_no_point_between_two_polls() -> None:
    assert drive(SCHEDULE, [5, 45, 46, 47, 48]) == [(45, 2), (46, 1), (47, 2)]


def test_schedule_waits_where_the_longest_request_ended() -> None:
    assert drive(SCHEDULE, [12, 4, 8, 19, 21]) == [(12, 2), (21, 1)]


def test_schedule_passes_over_a_point_that_changes_nothing() -> None:
    assert drive(SCHEDULE, list(range(50)), failing=frozenset({0})) == [(10, 2), (30, 2)]


def test_schedule_stays_where_nothing_runs() -> None:
    assert SCHEDULE.decide(replace(TAIL, running=(0, 0), longest_decoded_tokens=15)) is None


@given(
    snapshot=snapshots,
    tokens=st.sets(st.integers(1, 60), min_size=1, max_size=6),
    first=st.sampled_from((1, 2)),
)
def test_schedule_never_decides_for_the_degree_present(
    snapshot: Snapshot, tokens: set[int], first: int
) -> None:
    points = tuple(
        SchedulePoint(tokens=at, degree=first if index % 2 == 0 else 3 - first)
        for index, at in enumerate(sorted(tokens))
    )
    decision = Schedule(points=points).decide(snapshot)
    if decision is not None:
        assert decision.degree != snapshot.degree
        due = points[snapshot.switches_done_in_stage :]
        assert any(
            point.degree == decision.degree and point.tokens <= snapshot.longest_decoded_tokens
            for point in due
        )


@given(snapshot=snapshots)
def test_widening_at_once_needs_an_idle_group_and_a_settled_stage(snapshot: Snapshot) -> None:
    decision = WidenAtOnce(degree=2).decide(snapshot)
    may = snapshot.arrivals_settled and not snapshot.waiting and snapshot.degree < 2
    idle = snapshot.num_running > 0 and min(snapshot.running) == 0
    assert (decision is not None) == (may and idle)
    assert decision is None or decision.degree == 2


@dataclass(frozen=True)
class AfterTokens:
    """A new rule: widen once the longest response has so many tokens."""

    tokens: int
    degree: int

    def decide(self, snapshot: Snapshot) -> Decision | None:
        if snapshot.degree >= self.degree or snapshot.longest_decoded_tokens < self.tokens:
            return None
        return Decision(degree=self.degree, reason=f"{self.tokens} tokens")


def test_a_new_rule_is_a_class_with_one_method() -> None:
    rule = AfterTokens(tokens=30, degree=8)
    profile = h100_8b()
    requests = [
        SimulatedRequest(rid=f"r{index}", prompt="p", prompt_tokens=50, response_tokens=100)
        for index in range(8)
    ]
    clock = StepClock(profile, footprint=8, max_batch=8, max_context=256)
    stage = simulate(requests, following(rule), clock, degree=1)
    assert [(switch.to_degree, switch.reason) for switch in stage.switches] == [(8, "30 tokens")]
