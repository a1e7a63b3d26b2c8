"""Figures of a run's reviews: in the step lines, the summary and its table, and the line about advice."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
from rich.console import Console

from taper_rollout.events import Review, StageRecord
from taper_rollout.report.reviews import advised_figures, review_figures
from taper_rollout.report.stage_figures import StageFigures
from taper_rollout.report.summary import step_line, summarise
from taper_rollout.report.table import advice_text, summary_table

from .stage_builder import make_stage


def review(executed: float, best: float, one: float, two: float, *, error: float = 0.1) -> Review:
    return {
        "actual_seconds": executed * (1 + error),
        "executed_seconds": executed,
        "prefill_seconds": 0.0,
        "static_seconds": {"1": one, "2": two},
        "best_seconds": best,
        "best_plan": "degree 1, degree 2 at 3 live",
        "regret": executed / best - 1,
        "gain_over_best_static": 1 - executed / min(one, two),
        "model_error": error,
    }


def advised(gain: float, half_width: float) -> Review:
    return review(10, 10, 10, 12) | {
        "advised": {"gain_seconds": gain, "half_width_seconds": half_width, "staying_seconds": 10.0}
    }


def stages() -> list[StageRecord]:
    """One layout is better in the first stage, the other in the second; over both it is TP2."""
    return [
        make_stage(step=1, review=review(11, 10, 12, 15, error=0.05)),
        make_stage(step=2, review=review(20, 20, 30, 24, error=-0.03)),
        make_stage(step=3, review={"not_judged": "requests arrived after a switch"}),
        make_stage(step=4, review=None),
        make_stage(step=5),
    ]


def figures(records: list[StageRecord]) -> dict[str, Any]:
    found = StageFigures(records)
    return review_figures(found.reviews, [done.switch for done in found.committed()])


def test_figures_are_of_the_stages_that_were_judged() -> None:
    found = figures(stages())
    assert (found["judged_stages"], found["oracle_seconds"], found["executed_simulated_seconds"]) == (
        2,
        30,
        31,
    )
    assert found["regret_mean"] == pytest.approx(0.05)
    assert found["best_static_degree"] == 2
    assert found["gain_over_best_static"] == pytest.approx(1 - 31 / 39)
    assert found["stage_error_median"] == pytest.approx(0.04)
    assert found["pause_error_median"] is None


def test_the_pause_error_compares_committed_switches_with_their_prediction() -> None:
    (switch,) = make_stage().switches
    switch = dataclasses.replace(switch, predicted_pause_seconds=0.1)
    assert figures([make_stage(switches=(switch,))])["pause_error_median"] == pytest.approx(0.02 / 0.08)
    switch = dataclasses.replace(switch, outcome="aborted")
    assert figures([make_stage(switches=(switch,))])["pause_error_median"] is None


def test_without_a_judged_stage_all_figures_are_none() -> None:
    found = figures(stages()[2:])
    assert found.pop("judged_stages") == 0
    assert set(found.values()) == {None}


def test_layouts_that_not_all_stages_could_have_had_are_left_out() -> None:
    other = review(5, 5, 6, 7)
    del other["static_seconds"]["2"]
    assert figures([*stages(), make_stage(review=other)])["best_static_degree"] == 1


def test_the_step_line_and_the_summary_contain_them() -> None:
    line = step_line(1, {}, StageFigures(stages()[:1]))
    assert (line["regret_mean"], line["oracle_seconds"]) == (pytest.approx(0.1), 10)
    summary = summarise([line], StageFigures(stages()), outcome="completed")
    assert summary["regret_mean"] == pytest.approx(0.05)
    assert summary["advised_gain_seconds"] is None
    assert advice_text(summary) is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def shown(summary: dict[str, Any]) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    return console.export_text()


def test_the_table_shows_them_only_if_a_stage_was_judged() -> None:
    text = shown(summarise([], StageFigures(stages()), outcome="completed"))
    assert "paper" not in text
    for shown_text in (
        "simulated time of 2 stages",
        "31.00 s",
        "simulated time of the best plans",
        "30.00 s",
        "5.0%",
        "gain over the best static layout, TP2",
        "+20.5%",
        "4.0%",
    ):
        assert shown_text in text
    assert "regret" not in shown(summarise([], StageFigures(stages()[2:]), outcome="completed"))


def test_a_run_that_only_advised_ends_with_what_it_would_have_saved() -> None:
    given = [make_stage(step=step, review=advised(2.0, 0.5)) for step in (1, 2, 3)]
    assert advised_figures(StageFigures(given).reviews) == {
        "advised_gain_seconds": 6.0,
        "advised_gain_half_width_seconds": 1.5,
    }
    summary = summarise([], StageFigures([*given, *stages()]), outcome="completed")
    assert advice_text(summary) == "following the advice would have saved 6.00 ± 1.50 s of generation"
