"""A finished stage is simulated, or its record says why it cannot be."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from taper_policy.decision.ledger import FinishedResponse
from taper_rollout.events import BatchSample, RequestRecord, StageRecord
from taper_rollout.replica import stage as stage_module
from taper_rollout.replica.stage import Stage
from taper_rollout.replica.stage_review import NotJudged, StageReviewer, recorded_stage
from taper_rollout.switching.figures import MovedRequest

from ..fake_engine import PROFILE, SETTINGS, changed
from .test_stage import switch

PREDICTOR = {"name": "predictor"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stage_module, "time", clock)
    return clock


def end(clock: Clock, stage: Stage, name: str, tokens: int, *, at: float, **changes: Any) -> None:
    clock.now = at
    fields: dict[str, Any] = {
        "prompt_tokens": 10,
        "finish_reason": "stop",
        "request_id": name,
        "prompt": f"p-{name}",
        "sample": 0,
        "started_at": 1000.0,
    }
    group = changes.pop("group", None)
    record = RequestRecord(response_tokens=tokens, ended_at=at, **(fields | changes))
    stage.add_request(record, engine_id=name, group=group)


def record_of(stage: Stage) -> StageRecord:
    return stage.record(0, 7, None)


def four(clock: Clock, stage: Stage) -> Stage:
    """`a` and `b` in group 0, `c` and `d` in group 1; `d` has the tail."""
    for index, (name, tokens) in enumerate({"a": 100, "b": 120, "c": 140, "d": 2000}.items()):
        end(clock, stage, name, tokens, at=1001.0 + index, group=index // 2, started_at=1000 + index / 100)
    return stage


def test_requests_are_grouped_as_they_were(clock: Clock) -> None:
    stage = four(clock, Stage(2, 1))
    played = recorded_stage(stage, record_of(stage))
    assert (played.footprint, played.degree, played.seconds, played.moves) == (2, 1, 4.0, ())
    assert [(int(one.rid), one.prompt, one.group) for one in played.requests] == [
        (0, "p-a", 0),
        (1, "p-b", 0),
        (2, "p-c", 1),
        (3, "p-d", 1),
    ]
    assert [one.response_tokens for one in played.requests] == [100, 120, 140, 2000]


def test_a_switch_is_identified_by_the_tokens_made_and_the_groups_before_it(clock: Clock) -> None:
    """`d` had 160 KV tokens, so 151 of its own; it ended in group 0, since there was but one."""
    stage = Stage(2, 1)
    stage.add_switch(switch(1003.5), requests=[MovedRequest("d", 1, 160, 0)])
    four(clock, stage)
    stage.ended["d"] = dataclasses.replace(stage.ended["d"], group=0)
    played = recorded_stage(stage, record_of(stage))
    [move] = played.moves
    assert (move.degree, move.made_tokens, dict(move.groups)) == (2, 100 + 120 + 140 + 151, {f"{3:012}": 0})
    assert [one.group for one in played.requests] == [0, 0, 1, 1]


def test_prefills_are_those_before_the_first_switch_of_the_rank_with_most(clock: Clock) -> None:
    """What ranks prefilled in earlier stages, and again after the switch, is not among them."""
    stage = Stage(2, 1)
    stage.count_prefills([500, 900])
    stage.count_prefills([540, 930])
    stage.add_switch(switch(1003.0, outcome="aborted"), requests=[])
    stage.count_prefills([560, 970])
    stage.add_switch(switch(1003.5), requests=[MovedRequest("d", 1, 160, 0)])
    stage.count_prefills([900, 999])
    assert recorded_stage(four(clock, stage), record_of(stage)).prefilled_tokens == 70


@pytest.mark.parametrize(
    "changes", [{"outcome": "aborted"}, {"outcome": "advised"}, {"outcome": "refused"}], ids=str
)
def test_a_switch_that_was_not_made_is_no_part_of_it(clock: Clock, changes: dict[str, str]) -> None:
    stage = Stage(2, 1)
    stage.add_switch(switch(1003.5, **changes), requests=[MovedRequest("d", 1, 160, 0)])
    assert recorded_stage(four(clock, stage), record_of(stage)).moves == ()


def test_the_first_layout_is_the_one_after_the_switch_that_opened_the_stage(clock: Clock) -> None:
    """Requests wait while the layout is made for them, and the watcher sees the old one."""
    stage = Stage(2, 2)
    stage.observe(BatchSample(at=1000.1, running=(0, 0), waiting=4, degree=1), longest_tokens=0)
    stage.open(2)
    stage.observe(BatchSample(at=1000.5, running=(4,), waiting=0, degree=2), longest_tokens=1)
    played = recorded_stage(four(clock, stage), record_of(stage))
    assert played.degree == 2
    assert {request.group for request in played.requests} == {0}


def test_the_first_layout_is_the_one_that_was_seen(clock: Clock) -> None:
    stage = Stage(2, 1)
    stage.observe(BatchSample(at=1000.1, running=(4,), waiting=0, degree=2), longest_tokens=1)
    four(clock, stage)
    assert recorded_stage(stage, record_of(stage)).degree == 2


def late(clock: Clock, stage: Stage) -> None:
    stage.add_switch(switch(1003.5), requests=[MovedRequest("d", 1, 160, 0)])
    end(clock, four(clock, stage), "e", 50, at=1006.0, started_at=1003.6)


def another_wave(clock: Clock, stage: Stage) -> None:
    end(clock, four(clock, stage), "e", 50, at=1006.0, started_at=1001.5)


def aborted(clock: Clock, stage: Stage) -> None:
    end(clock, four(clock, stage), "e", 50, at=1006.0, finish_reason="aborted")


def without_a_token(clock: Clock, stage: Stage) -> None:
    end(clock, four(clock, stage), "e", 0, at=1006.0)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (late, "requests arrived after a switch"),
        (another_wave, "requests arrived when 1 of 5 had ended"),
        (aborted, "1 of 5 requests were aborted"),
        (without_a_token, "a response has no token"),
    ],
)
def test_a_stage_that_cannot_be_simulated_says_why(clock: Clock, spoil: Any, reason: str) -> None:
    stage = Stage(2, 1)
    spoil(clock, stage)
    with pytest.raises(NotJudged, match=reason):
        recorded_stage(stage, record_of(stage))
    reviewer = StageReviewer(SETTINGS)
    reviewer.use(PROFILE)
    judged = reviewer.judged(stage, record_of(stage))
    assert (judged.review, judged.regret) == ({"not_judged": reason}, None)


def waiting_until(clock: Clock, stage: Stage, samples: list[tuple[float, int]]) -> StageReviewer:
    for at, waiting in samples:
        stage.observe(BatchSample(at=at, running=(1, 1), waiting=waiting, degree=1), longest_tokens=1)
    four(clock, stage)
    reviewer = StageReviewer(SETTINGS)
    reviewer.use(PROFILE)
    return reviewer


def test_a_stage_whose_requests_waited_for_room_is_not_judged(clock: Clock) -> None:
    stage = Stage(2, 1)
    judged = waiting_until(clock, stage, [(1000.1, 2), (1002.0, 0)]).judged(stage, record_of(stage))
    assert (judged.review, judged.regret) == ({"not_judged": "requests waited for room for 1.0 s"}, None)


def test_requests_that_waited_for_the_prefills_had_room(clock: Clock) -> None:
    stage = Stage(2, 1)
    stage.count_prefills([0, 0])
    reviewer = waiting_until(clock, stage, [(1000.1, 2), (1002.0, 0)])
    tokens = math.ceil(0.6 / PROFILE.prefill[1].token_seconds)
    stage.count_prefills([tokens, tokens])
    review = reviewer.judged(stage, record_of(stage)).review
    assert review is not None
    assert "not_judged" not in review


def test_an_output_that_lags_behind_is_no_request_that_waits(clock: Clock) -> None:
    """Between two samples a response had ended in its rank and not arrived yet; and a switch took long."""
    stage = Stage(2, 1)
    samples = [(1000.1, 4), (1000.9, 0), (1001.1, 1), (1001.3, 0), (1002.0, 1), (1002.6, 0)]
    stage.add_switch(switch(1002.0, pause_seconds=0.5), requests=[MovedRequest("d", 1, 160, 0)])
    review = waiting_until(clock, stage, samples).judged(stage, record_of(stage)).review
    assert review is not None
    assert "not_judged" not in review


def test_a_reviewed_stage_reports_its_regret_with_any_policy(clock: Clock) -> None:
    stage = four(clock, Stage(2, 1))
    reviewer = StageReviewer(SETTINGS)
    assert reviewer.judged(stage, record_of(stage)) == record_of(stage)  # no profile yet
    reviewer.use(PROFILE)
    judged = reviewer.judged(stage, record_of(stage))
    assert judged.review is not None
    assert judged.regret == judged.review["regret"] > 0  # `d` was alone for long
    assert judged.review["best_seconds"] < judged.review["executed_seconds"]
    assert set(judged.review["static_seconds"]) == {"1", "2"}
    assert judged.review["actual_seconds"] == 4.0
    assert math.isfinite(judged.review["model_error"])
    assert "advised" not in judged.review
    assert dataclasses.replace(judged, review=None, regret=None) == record_of(stage)


def test_advice_is_priced_where_it_was_asked_for(clock: Clock) -> None:
    stage = four(clock, Stage(2, 1))
    settings = changed(SETTINGS, mode="advise", policy=PREDICTOR, response_tokens=4096)
    reviewer = StageReviewer(settings)
    reviewer.use(PROFILE)
    judged = reviewer.judged(stage, record_of(stage))
    assert judged.review is not None
    advised = judged.review["advised"]
    assert advised["staying_seconds"] == pytest.approx(judged.review["static_seconds"]["1"])
    assert advised["gain_seconds"] == advised["staying_seconds"] - advised["advised_seconds"] > 0


def test_a_stage_that_is_not_judged_is_learned_from(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[Any] = []
    reviewer = StageReviewer(changed(SETTINGS, mode="advise", policy=PREDICTOR))
    reviewer.use(PROFILE)
    monkeypatch.setattr(reviewer._advice, "learn", lambda step, finished: learned.append((step, finished)))
    stage = Stage(2, 1)
    aborted(clock, stage)
    reviewer.judged(stage, record_of(stage))
    expected = [
        FinishedResponse(f"p-{name}", tokens)
        for name, tokens in zip("abcd", (100, 120, 140, 2000), strict=True)
    ]
    assert learned == [(7, expected)]


def test_a_fault_never_ends_a_stage(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("an error of ours")

    monkeypatch.setattr("taper_rollout.replica.stage_review.review", fail)
    stage = four(clock, Stage(2, 1))
    reviewer = StageReviewer(SETTINGS)
    reviewer.use(PROFILE)
    assert reviewer.judged(stage, record_of(stage)).review == {
        "not_judged": "ZeroDivisionError: an error of ours"
    }
