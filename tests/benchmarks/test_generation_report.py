"""What `benchmarks/generation.py` reports of its runs."""

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
        from parts import generation_report

        return generation_report


def stages(
    report: Any,
    seconds: dict[str, list[float]],
    slowness: dict[str, list[float]] | None = None,
    probe_bias: float = 0.0,
) -> Any:
    """Stages with these seconds, by policy and repeat; by default the cores are slower beside TP2."""
    return report.Stages(
        [
            report.Run(
                regime="lognormal",
                requests=192,
                repeat=repeat,
                policy=policy,
                seconds=one,
                slowness=slowness[policy][repeat - 1]
                if slowness
                else 0.003
                if policy != "static TP2"
                else 0.0033,
                wide_share=float(policy == "static TP2"),
                switches=[],
                review=None,
            )
            for policy, taken in seconds.items()
            for repeat, one in enumerate(taken, start=1)
        ],
        probe_bias=probe_bias,
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
        found = {
            policy: list(mean * np.exp(noise * random.standard_normal(9))) for policy, mean in means.items()
        }
        return stages(report, found).gain("oracle's plan", "static TP1")

    calm, noisy = ([drawn(noise, seed) for seed in range(20)] for noise in (0.01, 0.04))
    # The bootstrap of nine repeats says 95 % and means about 90 %.
    assert sum(gain.low < 0.1 < gain.high for gain in calm + noisy) >= 32
    widths = [np.mean([gain.high - gain.low for gain in gains]) for gains in (calm, noisy)]
    assert widths[1] > 3 * widths[0]


def test_slow_cores_are_taken_out_of_a_gain_as_far_as_they_explain_seconds(report: Any) -> None:
    means = {"static TP1": 20.0, "static TP2": 21.0, "predictor": 18.4, "oracle's plan": 18.0}

    def drawn(seed: int) -> tuple[Any, Any]:
        random = np.random.default_rng(seed)
        slowness = {policy: list(0.003 * np.exp(0.06 * random.standard_normal(9))) for policy in means}
        taken = {
            policy: list(
                mean * (np.array(slowness[policy]) / 0.003) ** 0.6 * np.exp(0.01 * random.standard_normal(9))
            )
            for policy, mean in means.items()
        }
        found = stages(report, taken, slowness)
        pair = ("oracle's plan", "static TP1")
        return found.gain(*pair), found.gain_at_equal_speed(*pair)

    clock, equal = zip(*(drawn(seed) for seed in range(20)), strict=True)
    assert np.mean([gain.mean for gain in equal]) == pytest.approx(0.1, abs=0.003)
    assert sum(gain.low < 0.1 < gain.high for gain in equal) >= 16
    widths = [np.mean([gain.high - gain.low for gain in gains]) for gains in (clock, equal)]
    assert widths[1] < 0.4 * widths[0]


def test_cores_that_were_equally_slow_change_no_gain(report: Any) -> None:
    seconds = {"static TP1": [20.0, 25.0], "oracle's plan": [18.0, 22.5], "predictor": [18.0, 22.5]}
    found = stages(report, seconds)
    assert dataclasses.astuple(found.gain_at_equal_speed("predictor", "static TP1")) == pytest.approx(
        (0.1, 0.1, 0.1)
    )


def test_what_a_layout_does_to_the_probe_itself_is_not_taken_for_a_neighbours_doing(report: Any) -> None:
    random = np.random.default_rng(0)
    neighbours = {policy: 0.06 * random.standard_normal(40) for policy in ("static TP1", "static TP2")}
    means = {"static TP1": 20.0, "static TP2": 18.0}
    seconds = {policy: list(means[policy] * np.exp(0.6 * slow)) for policy, slow in neighbours.items()}
    slowness = {
        policy: list(0.003 * np.exp(slow) * (1.05 if policy == "static TP2" else 1.0))
        for policy, slow in neighbours.items()
    }
    gains = [
        stages(report, seconds, slowness, probe_bias).gain_at_equal_speed("static TP2", "static TP1").mean
        for probe_bias in (0.0, 0.05)
    ]
    assert gains == pytest.approx([1 - 0.9 * 1.05**-0.6, 0.1], abs=1e-6)


def test_the_share_of_a_stage_in_a_wide_layout_counts_what_was_committed(report: Any) -> None:
    def switch(at: float, to_degree: int, outcome: str = "committed") -> dict[str, Any]:
        return {"at": at, "to_degree": to_degree, "outcome": outcome}

    record = {"started_at": 100.0, "ended_at": 110.0, "batch": [{"degree": 1}, {"degree": 2}]}
    assert report.wide_share(record | {"switches": []}, 2) == 0.0
    assert report.wide_share(record | {"switches": [switch(104.0, 2, "aborted"), switch(106.0, 2)]}, 2) == 0.4
    assert report.wide_share(record | {"switches": [switch(102.0, 2), switch(109.0, 1)]}, 2) == 0.7


def test_cases_have_equal_weight_and_only_policies_of_all_cases_have_a_row(report: Any) -> None:
    few = stages(report, {"static TP1": [20.0], "predictor": [18.0], "widen-at-once": [30.0]})
    many = stages(report, {"static TP1": [21.0, 25.0], "static TP2": [20.0, 20.0], "predictor": [16.0, 16.0]})
    means = report.over_cases([few, many])
    columns = [list(column.cells) for column in means.columns]
    assert columns[0] == ["static TP1", "predictor"]
    # The first case's best layout is TP1, the second one's TP2: 10 % and 20 %.
    assert columns[1][1] == "+15.0% [+15.0%, +15.0%]"
    assert "3 repeats" in str(means.title)


def test_an_arm_has_the_same_row_in_cases_with_other_policies(report: Any) -> None:
    few = stages(
        report, {"static TP2": [1.0], "predictor": [1.0], "oracle's plan": [1.0], "static TP1": [1.0]}
    )
    policies = (
        "widen-at-once",
        "threshold 32",
        "oracle's plan",
        "threshold 8",
        "static TP1",
        "predictor",
        "static TP2",
    )
    many = stages(report, {policy: [1.0] for policy in policies})
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
