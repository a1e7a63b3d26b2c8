"""How `benchmarks/generation.py` computes the errors of simulated stages and predicted pauses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from parts import generation_errors, generation_report

        return SimpleNamespace(
            Errors=generation_errors.Errors,
            errors_table=generation_errors.errors_table,
            Run=generation_report.Run,
            Stages=generation_report.Stages,
        )


def case(modules: Any, errors: list[float | None], slowness: list[float], **changes: Any) -> Any:
    """Stages of the predictor one after the other that took that much longer than simulated."""
    return modules.Stages(
        [
            modules.Run(
                **{
                    "regime": "lognormal",
                    "requests": 192,
                    "repeat": repeat,
                    "policy": "predictor",
                    "seconds": 20.0,
                    "slowness": slow,
                    "wide_share": 0.0,
                    "switches": [],
                    "review": None if error is None else {"model_error": error},
                    **changes,
                }
            )
            for repeat, (error, slow) in enumerate(zip(errors, slowness, strict=True), start=1)
        ]
    )


def test_the_clocks_errors_are_medians_whatever_their_sign(modules: Any) -> None:
    found = modules.Errors.of([case(modules, [-0.1, 0.04, None, 0.02], [0.003] * 4)])
    assert found.as_json()["stage_error_median"] == pytest.approx(0.04)
    assert found.as_json()["pause_error_p90"] is None


def test_cores_that_changed_their_speed_since_the_profile_was_corrected_are_taken_out(modules: Any) -> None:
    """A true error of 3 %, and what each stage's cores differ by from the mean of those before."""
    drawn = np.random.default_rng(7)
    logs = drawn.normal(0.0, 0.15, 200)
    before, errors = logs[0], [0.0]
    for one in logs[1:]:
        errors.append(float(np.exp(0.8 * (one - before) + 0.03) - 1.0))
        before = (before + one) / 2
    found = modules.Errors.of([case(modules, errors, list(0.003 * np.exp(logs)))])
    assert found.as_json()["stage_error_median"] > 0.07
    assert len(found.stages_at_equal_speed) == 199
    assert found.as_json()["stage_error_median_at_equal_speed"] == pytest.approx(0.03, abs=0.005)


def test_cores_of_one_speed_change_no_error(modules: Any) -> None:
    found = modules.Errors.of([case(modules, [0.5, -0.1, 0.04], [0.003] * 3)])
    assert found.stages_at_equal_speed == pytest.approx([-0.1, 0.04])


def test_pauses_are_those_of_the_predictor_that_were_made(modules: Any) -> None:
    switches = [
        {"outcome": "committed", "predicted_pause_seconds": 0.12, "pause_seconds": 0.1},
        {"outcome": "aborted", "predicted_pause_seconds": 9.0, "pause_seconds": 0.1},
    ]
    found = [
        case(modules, [None], [0.003], switches=switches),
        case(modules, [None], [0.003], switches=switches, policy="static TP1"),
    ]
    assert modules.Errors.of(found).as_json()["pause_error_p90"] == pytest.approx(0.2)
    assert modules.errors_table(found).row_count == 2
