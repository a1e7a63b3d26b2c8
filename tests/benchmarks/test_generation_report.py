"""What `benchmarks/generation.py` says of its runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def report() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import generation_report

        return generation_report


def stages(report: Any, seconds: dict[str, list[float]]) -> Any:
    """Stages that take so many seconds, by arm and repeat; the cores are slower beside TP2."""
    return report.Stages(
        [
            report.Run(
                regime="lognormal",
                requests=192,
                repeat=repeat,
                arm=arm,
                seconds=one,
                slowness=0.003 if arm != "static TP2" else 0.0033,
                switches=[],
                review=None,
            )
            for arm, taken in seconds.items()
            for repeat, one in enumerate(taken, start=1)
        ]
    )


def test_gains_are_shares_of_the_best_static_layout_repeat_by_repeat(report: Any) -> None:
    found = stages(
        report,
        {
            "static TP2": [21.0, 25.0],
            "static TP1": [20.0, 25.0],
            "oracle's plan": [18.0, 22.5],
            "predictor": [18.4, 24.0],
        },
    )
    assert found.best_static == "static TP1"
    assert dataclasses.astuple(found.gain("oracle's plan", "static TP1")) == pytest.approx((0.1, 0.1, 0.1))
    assert dataclasses.astuple(found.gain("predictor", "static TP1")) == pytest.approx((0.06, 0.04, 0.08))
    assert found.share_of_oracle() == pytest.approx(0.6)
    assert found.slowness("static TP2") == pytest.approx(1.1)
    assert found.as_json()["arms"]["predictor"]["gain_over_best_static"]["mean"] == pytest.approx(0.06)


def test_no_share_of_nothing(report: Any) -> None:
    assert (
        stages(report, {"static TP1": [20.0], "oracle's plan": [20.5], "predictor": [20.0]}).share_of_oracle()
        is None
    )


def test_the_interval_mostly_holds_the_true_gain_and_noise_widens_it(report: Any) -> None:
    def drawn(noise: float, seed: int) -> Any:
        random = np.random.default_rng(seed)
        means = {"static TP1": 20.0, "oracle's plan": 18.0}
        found = {arm: list(mean * np.exp(noise * random.standard_normal(9))) for arm, mean in means.items()}
        return stages(report, found).gain("oracle's plan", "static TP1")

    calm, noisy = ([drawn(noise, seed) for seed in range(20)] for noise in (0.01, 0.04))
    # The bootstrap of nine repeats says 95 % and means about 90 %.
    assert sum(gain.low < 0.1 < gain.high for gain in calm + noisy) >= 32
    widths = [np.mean([gain.high - gain.low for gain in gains]) for gains in (calm, noisy)]
    assert widths[1] > 3 * widths[0]


def test_an_arm_has_the_same_row_in_cases_with_other_arms(report: Any) -> None:
    few = stages(
        report, {"static TP2": [1.0], "predictor": [1.0], "oracle's plan": [1.0], "static TP1": [1.0]}
    )
    arms = (
        "widen-at-once",
        "threshold 32",
        "oracle's plan",
        "threshold 8",
        "static TP1",
        "predictor",
        "static TP2",
    )
    many = stages(report, {arm: [1.0] for arm in arms})
    expected = [
        "static TP1",
        "static TP2",
        "threshold 8",
        "threshold 32",
        "widen-at-once",
        "predictor",
        "oracle's plan",
    ]
    assert report.rows([few, many]) == report.rows([many]) == expected
    assert report.rows([few]) == ["static TP1", "static TP2", "predictor", "oracle's plan"]
