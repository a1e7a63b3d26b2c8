"""A ledger is split where replicas started again, and into stages."""

from __future__ import annotations

import dataclasses
import json

import pytest

from taper_policy.decision.ledger import (
    DecisionEntry,
    FirstLayoutEntry,
    LedgerRecord,
    ReviewEntry,
    StageEndEntry,
    StartEntry,
    SwitchOutcomeEntry,
    entry_as_json,
    entry_from_json,
)
from taper_policy.decision.pricing import Choice, PredictorSettings
from taper_policy.review.replica_history import replica_histories, same_choice

from ..decision.test_advisor import DEGREES, MAX_TOKENS, PROFILE, recorded

START = StartEntry(
    footprint=8,
    degrees=DEGREES,
    mode="enforce",
    max_tokens=MAX_TOKENS,
    predictor=PredictorSettings(),
    profile=PROFILE,
)


def ledger(num_stages: int = 2) -> list[LedgerRecord]:
    """A history whose first switch in each stage has an outcome, and each stage a review before its end."""
    entries: list[LedgerRecord] = [START]
    for entry in recorded(num_stages):
        if isinstance(entry, StageEndEntry):
            asked = [one for one in entries if isinstance(one, DecisionEntry) and one.step == entry.step]
            entries += [
                SwitchOutcomeEntry(
                    step=entry.step, switch={"question": asked[0].number, "outcome": "committed"}
                )
            ]
            entries += [
                SwitchOutcomeEntry(step=entry.step, switch={"question": None, "outcome": "committed"})
            ]
            entries += [ReviewEntry(step=entry.step, review={"not_judged": "a test"})]
        entries.append(entry)
    return entries


def test_entries_survive_json() -> None:
    entries = ledger()
    assert [entry_from_json(json.loads(json.dumps(entry_as_json(entry)))) for entry in entries] == entries


def test_interleaved_lives_are_separated() -> None:
    one, other = ledger(2), ledger(1)
    mixed = [(replica, entry) for pair in zip(one, other, strict=False) for replica, entry in enumerate(pair)]
    mixed += [(0, entry) for entry in one[len(other) :]]
    found = replica_histories(mixed)
    assert [history.replica for history in found] == [0, 1]
    assert [[history.start, *history.entries] for history in found] == [one, other]


def test_a_start_begins_another_history() -> None:
    found = replica_histories([(3, entry) for entry in [*ledger(2), *ledger(1)]])
    assert [history.replica for history in found] == [3, 3]
    assert [len(list(history.stages())) for history in found] == [2, 1]


def test_a_stage_has_its_own_entries() -> None:
    [history] = replica_histories([(0, entry) for entry in ledger(2)])
    first, second = history.stages()
    assert (first.step, second.step) == (0, 1)
    for stage in (first, second):
        assert {question.step for question in stage.decisions} == {stage.step}
        assert list(stage.outcomes) == [stage.decisions[0].number]
        assert stage.review is not None and stage.has_ended
    openings = [entry for entry in history.entries if isinstance(entry, FirstLayoutEntry)]
    assert [stage.first_layout for stage in (first, second) if stage.first_layout] == openings


def test_two_stages_of_a_step_are_two() -> None:
    twice = [START, *ledger(1)[1:], *ledger(1)[1:]]
    [history] = replica_histories([(0, entry) for entry in twice])
    one, other = history.stages()
    assert one == other


def test_a_stage_that_was_broken_off_has_not_ended() -> None:
    [history] = replica_histories([(0, entry) for entry in ledger(2)[:-1]])
    assert [stage.has_ended for stage in history.stages()] == [True, False]


def test_a_life_without_a_start_is_refused() -> None:
    with pytest.raises(ValueError, match="replica 1: its start is missing"):
        replica_histories([(0, START), (1, StageEndEntry(step=1, finished=()))])


def test_it_is_decided_again_by_its_own_start() -> None:
    [history] = replica_histories([(0, entry) for entry in ledger(2)])
    pairs = list(history.decided_again())
    assert pairs
    assert all(same_choice(one.choice, other.choice) for one, other in pairs)
    other = dataclasses.replace(history, start=dataclasses.replace(START, max_tokens=MAX_TOKENS * 4))
    assert not all(same_choice(one.choice, other.choice) for one, other in other.decided_again())


def test_last_digits_make_no_other_choice() -> None:
    [history] = replica_histories([(0, entry) for entry in ledger(1)])
    choice = next(
        entry.choice for entry in history.entries if isinstance(entry, DecisionEntry) and entry.choice.options
    )

    def with_seconds(factor: float) -> Choice:
        first, *others = choice.options
        return dataclasses.replace(
            choice, options=(dataclasses.replace(first, seconds=first.seconds * factor), *others)
        )

    assert same_choice(choice, with_seconds(1 + 1e-12))
    assert not same_choice(choice, with_seconds(1 + 1e-6))
    assert not same_choice(choice, dataclasses.replace(choice, options=()))
    assert not same_choice(choice, dataclasses.replace(choice, degree=choice.degree * 2))
