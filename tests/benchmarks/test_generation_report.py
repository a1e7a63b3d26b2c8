"""What `benchmarks/generation.py` says of its runs: gains at equal speed of the cores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SECONDS = {"static TP1": 20.0, "static TP2": 22.0, "oracle's plan": 18.0, "predictor": 18.4}


@pytest.fixture(scope="module")
def report() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import generation_report

        return generation_report


def stages(report: Any, *, multiple: float, spread: float, noise: float, seed: int = 4) -> Any:
    """Stages of `SECONDS` on cores whose slowness varies by `spread`, `multiple` times as much in a stage."""
    random = np.random.default_rng(seed)
    return report.Stages(
        [
            report.Run(
                regime="lognormal",
                requests=192,
                repeat=repeat,
                arm=arm,
                seconds=seconds * slowness**multiple * float(np.exp(noise * random.standard_normal())),
                slowness=0.003 * slowness,
                switches=[],
                review=None,
            )
            for repeat in range(1, 10)
            for arm, seconds in SECONDS.items()
            for slowness in [float(np.exp(spread * random.standard_normal()))]
        ]
    )


def test_gains_are_those_of_cores_that_are_equally_fast(report: Any) -> None:
    found = stages(report, multiple=1.5, spread=0.1, noise=0.0)
    assert found.speed_multiple == pytest.approx(1.5)
    assert found.best_static == "static TP1"
    gain = found.gain("predictor", "static TP1")
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.08, 0.08, 0.08))
    assert found.share_of_oracle() == pytest.approx(0.8)
    by_clock = found.gain("predictor", "static TP1", at_equal_speed=False)
    assert by_clock.high - by_clock.low > 0.1


def test_cores_that_are_equally_fast_change_nothing(report: Any) -> None:
    found = stages(report, multiple=1.5, spread=0.0, noise=0.03)
    assert found.speed_multiple == 0.0
    for arm in SECONDS:
        gain = found.gain(arm, "static TP2")
        clock = found.gain(arm, "static TP2", at_equal_speed=False)
        assert dataclasses.astuple(gain) == pytest.approx(dataclasses.astuple(clock))
        assert gain.low <= gain.mean <= gain.high


def test_the_interval_mostly_holds_the_true_gain_and_noise_widens_it(report: Any) -> None:
    calm, noisy = (
        [
            stages(report, multiple=1.0, spread=0.05, noise=noise, seed=seed).gain(
                "oracle's plan", "static TP1"
            )
            for seed in range(20)
        ]
        for noise in (0.01, 0.04)
    )
    # The bootstrap of nine repeats says 95 % and means about 90 %.
    assert sum(gain.low < 0.1 < gain.high for gain in calm + noisy) >= 32
    widths = [np.mean([gain.high - gain.low for gain in gains]) for gains in (calm, noisy)]
    assert widths[1] > 3 * widths[0]
