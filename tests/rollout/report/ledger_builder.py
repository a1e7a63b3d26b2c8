"""Ledger events of a job of simulated stages, decided by the real advisor."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.ledger import (
    DecisionEntry,
    FirstLayoutEntry,
    LedgerRecord,
    ReviewEntry,
    StartEntry,
    SwitchOutcomeEntry,
    entry_as_json,
)
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.profile.estimated import h100_8b
from taper_policy.review.review import RecordedRequest, RecordedStage, as_simulated, review
from taper_policy.simulation.length_distributions import lengths
from taper_policy.simulation.policies import PredictorPolicy, expected_like
from taper_policy.simulation.simulator import SimulatedRequest, SimulatedSwitch, clock_of, simulate
from taper_rollout.events import LedgerEntry

PROFILE = h100_8b()
MAX_TOKENS = 4096
SETTINGS = PredictorSettings(margin_seconds=1.0)


def event(entry: LedgerRecord, *, replica: int = 0) -> LedgerEntry:
    return LedgerEntry(replica=replica, at=1_700_000_000.5, entry=entry_as_json(entry))


@functools.cache
def history_events(
    steps: tuple[int, ...], *, replica: int = 0, mode: str = "enforce"
) -> tuple[LedgerEntry, ...]:
    """The events of one replica history: its start, and all of the stages of `steps`."""
    rules = DecisionSettings(degrees=PROFILE.degrees, predictor=SETTINGS)
    start = StartEntry(
        footprint=8,
        degrees=PROFILE.degrees,
        mode=mode,
        max_tokens=MAX_TOKENS,
        predictor=SETTINGS,
        profile=PROFILE,
    )
    advisor = Advisor(PROFILE, rules, max_tokens=MAX_TOKENS)
    entries: list[LedgerRecord] = [start]
    before: list[SimulatedRequest] = []
    for step in steps:
        played = _drawn(step, replica)
        entries += _stage(advisor, step, played, before, mode)
        before = as_simulated(played)
    return tuple(event(entry, replica=replica) for entry in entries)


def decisions_of(events: Sequence[LedgerEntry], *kinds: str) -> list[dict[str, Any]]:
    """The entries of these kinds, by default all that were decisions."""
    return [one.entry for one in events if one.entry["entry"] in (kinds or ("opening", "question"))]


def _drawn(step: int, replica: int) -> RecordedStage:
    drawn = lengths(
        "lognormal", num_prompts=4, num_samples=8, max_tokens=MAX_TOKENS, seed=10 * step + replica
    )
    requests = tuple(
        RecordedRequest(
            rid=f"{p * 8 + s:012}",
            prompt=f"p{p}",
            prompt_tokens=200,
            response_tokens=int(drawn[p, s]),
            group=s,
        )
        for p, s in np.ndindex(*drawn.shape)
    )
    return RecordedStage(footprint=8, degree=1, seconds=60.0, prefilled_tokens=800, requests=requests)


def _stage(
    advisor: Advisor, step: int, played: RecordedStage, before: Sequence[SimulatedRequest], mode: str
) -> list[LedgerRecord]:
    requests = as_simulated(played)
    rule = PredictorPolicy(advisor, step=step)
    entries: list[LedgerRecord] = []
    first = 1
    if before:
        expected = expected_like(before)
        choice = advisor.first_layout(expected)
        entries.append(FirstLayoutEntry(step=step, expected=expected, choice=choice))
        first = choice.degree
    clock = clock_of([requests], PROFILE, footprint=8)
    stage = simulate(requests, rule, clock, degree=first)
    rule.learn(requests)
    end = advisor.end_stage()
    entries += rule.decisions
    asked = [question for question in rule.decisions if question.is_switch]
    entries += [_outcome(q, s, mode) for q, s in zip(asked, stage.switches, strict=True)]
    judged = review(replace(played, seconds=stage.seconds), PROFILE, PROFILE.degrees)
    entries += [ReviewEntry(step=step, review=judged.as_json()), end]
    return entries


def _outcome(question: DecisionEntry, switch: SimulatedSwitch, mode: str) -> SwitchOutcomeEntry:
    is_made = mode == "enforce"
    return SwitchOutcomeEntry(
        step=question.step,
        switch={
            "from_degree": switch.from_degree,
            "to_degree": switch.to_degree,
            "outcome": "committed" if is_made else "advised",
            "reason": switch.reason,
            "question": question.number,
            "pause_seconds": switch.pause_seconds * 1.25 if is_made else 0.0,
            "predicted_pause_seconds": switch.pause_seconds,
            "gain_seconds": question.choice.gain_seconds / 2 if is_made else None,
            "predicted_gain_seconds": question.choice.gain_seconds,
        },
    )
