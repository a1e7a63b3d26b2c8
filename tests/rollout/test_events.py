"""A stage as a trace holds it: what was written is what is read."""

from __future__ import annotations

import dataclasses
import json

import pytest

from taper_rollout.events import stage_from_json

from .report.stage_builder import make_stage

REVIEW = {"executed_seconds": 9.0, "static_seconds": {"1": 9.0}, "advised": {"gain_seconds": 3.0}}


@pytest.mark.parametrize("review", [None, REVIEW, {"not_judged": "requests waited"}], ids=str)
def test_a_stage_read_back_equals_the_one_written(review) -> None:
    stage = make_stage(review=review, regret=0.25)
    assert stage_from_json(json.dumps(dataclasses.asdict(stage)).encode()) == stage


def test_a_trace_of_an_older_run_has_no_review_and_no_predictions() -> None:
    stage = make_stage()
    content = dataclasses.asdict(stage)
    del content["review"], content["regret"], content["switches"][0]["predicted_pause_seconds"]
    assert stage_from_json(json.dumps(content).encode()) == stage


def test_a_damaged_trace_says_where() -> None:
    content = dataclasses.asdict(make_stage())
    content["switches"][0]["pause_seconds"] = "long"
    with pytest.raises(ValueError, match=r"switches\.0\.pause_seconds"):
        stage_from_json(json.dumps(content).encode())
