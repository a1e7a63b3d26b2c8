import json

import pytest

from taper_rollout.report.stage_figures import StageFigures
from taper_rollout.report.summary import step_line, summarise

from .stage_builder import START, make_stage


def lines_and_stages():
    stages = [
        make_stage(step=1, gain_seconds=1.5),
        make_stage(step=2, started_at=START + 100, gain_seconds=None),
        make_stage(step=3, started_at=START + 200, switch_at_tokens=None),
        make_stage(step=4, started_at=START + 300, outcome="aborted"),
    ]
    rewards = (0.1, 0.2, float("nan"), 0.4)
    lines = [
        step_line(stage.step, {"critic/score/mean": reward, "timing_s/gen": 3.0}, StageFigures([stage]))
        for stage, reward in zip(stages, rewards, strict=True)
    ]
    return lines, StageFigures(stages)


def test_a_steps_line_holds_its_own_figures_and_verls():
    line = lines_and_stages()[0][0]
    assert line["step"] == 1
    assert line["reward"] == 0.1
    assert line["generation_seconds"] == pytest.approx(10.0)
    assert (line["switches"], line["pause_seconds"], line["gain_seconds"]) == (1, 0.08, 1.5)
    assert line["idle_rank_seconds"] == 2.0
    assert line["metrics"]["timing_s/gen"] == 3.0


def test_what_is_no_number_in_json_becomes_null():
    line = lines_and_stages()[0][2]
    assert line["reward"] is None
    assert json.loads(json.dumps(line, allow_nan=False))["metrics"]["critic/score/mean"] is None


def test_summary():
    summary = summarise(*lines_and_stages(), outcome="completed")
    assert summary["outcome"] == "completed"
    assert summary["steps"] == 4
    assert (summary["reward_first"], summary["reward_last"]) == (0.1, 0.4)
    assert summary["generation_seconds"] == pytest.approx(40.0)
    assert (summary["switches"], summary["steps_with_switches"], summary["switches_aborted"]) == (2, 2, 1)
    assert summary["pause_seconds"] == pytest.approx(0.16)
    assert summary["gain_seconds"] == 1.5
    assert summary["idle_rank_seconds"] == 8.0
    assert [(gain["step"], gain["gain_seconds"]) for gain in summary["gains"]] == [(1, 1.5), (2, None)]


def test_summary_of_a_run_that_ended_before_its_first_step():
    summary = summarise([], StageFigures(), outcome="failed")
    assert (summary["steps"], summary["reward_first"], summary["gain_seconds"]) == (0, None, None)
