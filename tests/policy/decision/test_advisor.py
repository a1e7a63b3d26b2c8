"""The advisor: when it decides, what it learns, and that its decisions can be repeated."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_policy.decision.advisor import Advisor
from taper_policy.decision.correction import Correction
from taper_policy.decision.decide import DecisionSettings
from taper_policy.decision.first_layout import ExpectedStage
from taper_policy.decision.ledger import (
    AdvisorEntry,
    CorrectionEntry,
    DecisionEntry,
    FinishedResponse,
    FirstLayoutEntry,
    StageEndEntry,
    entry_as_json,
    entry_from_json,
)
from taper_policy.decision.pricing import PredictorSettings
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.profile.estimated import h100_8b
from taper_policy.review.replica_history import replay
from taper_policy.simulation.length_distributions import lengths
from taper_policy.simulation.policies import PredictorPolicy
from taper_policy.simulation.simulator import SimulatedRequest, simulate
from taper_policy.simulation.step_clock import StepClock

from ...examples import examples

PROFILE = h100_8b()
DEGREES = (1, 2, 4, 8)
MAX_TOKENS = 4096


def new_advisor(**enough: float) -> Advisor:
    rules = DecisionSettings(degrees=DEGREES, predictor=PredictorSettings(**enough))
    return Advisor(PROFILE, rules, max_tokens=MAX_TOKENS)


def recorded(num_stages: int, seed: int = 3) -> list[AdvisorEntry]:
    """The ledger of a job of so many simulated stages; from the second on, narrow steps take longer."""
    advisor, entries = new_advisor(), list[AdvisorEntry]()
    clock = StepClock(PROFILE, footprint=8, max_batch=32, max_context=MAX_TOKENS + 200)
    for step in range(num_stages):
        drawn = lengths("siblings", num_prompts=4, num_samples=8, max_tokens=MAX_TOKENS, seed=seed + step)
        requests = [
            SimulatedRequest(
                rid=f"{p}-{s}", prompt=f"p{p}", prompt_tokens=200, response_tokens=int(drawn[p, s])
            )
            for p, s in np.ndindex(*drawn.shape)
        ]
        rule = PredictorPolicy(advisor, step=step)
        if step:
            correction = Correction({1: {0: 1.0 + step}, 8: {0: 1.0 + 0.1 * step}})
            advisor.correct(correction)
            entries.append(CorrectionEntry(step=step, correction=correction))
        expected = ExpectedStage(num_requests=32, num_prompts=4, prompt_tokens=200)
        opened = advisor.first_layout(expected)
        entries.append(FirstLayoutEntry(step=step, expected=expected, choice=opened))
        simulate(requests, rule, clock, degree=1)
        rule.learn(requests)
        entries += [*rule.decisions, advisor.end_stage()]
    return entries


def snapshot(decoded: Sequence[int], at_seconds: float = 10.0) -> Snapshot:
    live = tuple(
        LiveRequest(
            rid=f"r{index}", prompt=f"p{index // 2}", group=index % 8, prompt_tokens=9, decoded_tokens=n
        )
        for index, n in enumerate(decoded)
    )
    return Snapshot(at_seconds=at_seconds, footprint=8, degree=1, running=()).with_live(live)


def test_a_ledger_decided_again_gives_the_same_choices() -> None:
    entries = recorded(3)
    pairs = list(replay(entries, new_advisor()))
    assert len(pairs) == sum(isinstance(entry, FirstLayoutEntry | DecisionEntry) for entry in entries)
    assert any(question.is_switch for question in entries if isinstance(question, DecisionEntry))
    for question, again in pairs:
        assert again == question
    uncorrected = [entry for entry in entries if not isinstance(entry, CorrectionEntry)]
    assert any(question != again for question, again in replay(uncorrected, new_advisor()))


def test_other_rules_choose_otherwise() -> None:
    pairs = list(replay(recorded(2), new_advisor(margin_seconds=1e6)))
    questions = [again for _, again in pairs if isinstance(again, DecisionEntry)]
    assert any(question.is_switch for question, _ in pairs if isinstance(question, DecisionEntry))
    assert questions
    assert not any(again.is_switch for again in questions)


def test_a_ledger_without_its_stage_ends_is_recognised() -> None:
    entries = recorded(3)
    cut = [entry for entry in entries if not isinstance(entry, StageEndEntry)]
    with pytest.raises(ValueError, match="step 1 follows step 0, whose end is missing"):
        list(replay(cut, new_advisor()))


def test_entries_survive_json() -> None:
    entries = recorded(2)
    assert [entry_from_json(json.loads(json.dumps(entry_as_json(entry)))) for entry in entries] == entries


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("step"), "step: missing"),
        (lambda values: values.update(entry="guess"), "entry: 'guess' is unknown"),
        (lambda values: values["choice"].update(luck=1), "luck"),
        (lambda values: values["snapshot"]["live"].append([1]), "argument 2 is shorter"),
        (
            lambda values: values["snapshot"]["live"].append(["r", "p", 0, 1, -3]),
            "decoded_tokens: -3 is negative",
        ),
        (lambda values: values.update(finished=7), "is not a ledger entry"),
    ],
)
def test_a_corrupt_entry_says_what_is_wrong(change, message: str) -> None:  # type: ignore[no-untyped-def]
    values = json.loads(json.dumps(entry_as_json(recorded(1)[1])))
    change(values)
    with pytest.raises(ValueError, match=message):
        entry_from_json(values)


def test_each_response_is_added_once_and_in_its_stage() -> None:
    advisor = new_advisor()
    advisor.start_stage(4)
    advisor.add_finished([FinishedResponse("a", 3)])
    first = advisor.decide(snapshot([5, 6]), 10.0)
    advisor.add_finished([FinishedResponse("b", 4)])
    assert (first.finished, advisor.end_stage().finished) == (
        (FinishedResponse("a", 3),),
        (FinishedResponse("b", 4),),
    )
    assert advisor.end_stage().finished == ()


@given(decoded=st.lists(st.integers(0, 2 * MAX_TOKENS), max_size=12), now=st.floats(-1e6, 1e6))
@examples(60)
def test_what_cannot_be_judged_is_left_as_it_is(decoded: list[int], now: float) -> None:
    advisor = new_advisor()
    advisor.start_stage(1)
    question = advisor.decide(snapshot(decoded), now)
    if not decoded or max(decoded) >= MAX_TOKENS or not 10.0 <= now <= 15.0:
        assert not question.is_switch
    assert question.choice.reason
