"""The synthetic lengths have the shapes that their sources give."""

from __future__ import annotations

import numpy as np
import pytest

from taper_policy.simulation.length_distributions import PUBLISHED_CAP, REGIMES, lengths


@pytest.mark.parametrize("regime", REGIMES)
def test_lengths_are_whole_within_the_cap_and_repeat(regime: str) -> None:
    def drawn(seed: int) -> np.ndarray:
        return lengths(regime, num_prompts=50, num_samples=8, max_tokens=640, seed=seed)

    assert drawn(1).shape == (50, 8)
    assert drawn(1).min() >= 1 and drawn(1).max() <= 640
    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (drawn(1) != drawn(2)).any()


def test_the_lognormal_is_the_published_one() -> None:
    drawn = lengths("lognormal", num_prompts=20_000, num_samples=8, max_tokens=PUBLISHED_CAP, seed=3)
    assert (drawn > 8192).mean() == pytest.approx(0.1085, abs=0.004)
    assert (drawn == PUBLISHED_CAP).mean() == pytest.approx(0.022, abs=0.002)


def test_siblings_share_half_of_the_variance() -> None:
    drawn = lengths("siblings", num_prompts=5_000, num_samples=8, max_tokens=10**9, seed=3)
    logs = np.log(drawn)
    assert logs.mean(axis=1).var() / logs.var() == pytest.approx(0.5 + 0.5 / 8, abs=0.02)
    alone = np.log(lengths("lognormal", num_prompts=5_000, num_samples=8, max_tokens=10**9, seed=3))
    assert alone.mean(axis=1).var() / alone.var() == pytest.approx(1 / 8, abs=0.02)


def test_tails() -> None:
    def ratio(regime: str) -> float:
        drawn = lengths(regime, num_prompts=1000, num_samples=8, max_tokens=2048, seed=1)
        return float(np.quantile(drawn, 0.99) / np.median(drawn))

    assert ratio("lognormal") > 5 and ratio("siblings") > 5 and ratio("bimodal") > 5
    assert ratio("uniform") < 1.2


@pytest.mark.parametrize(
    ("change", "named"),
    [({"regime": "gamma"}, "regime"), ({"num_prompts": 0}, "num_prompts"), ({"max_tokens": 0}, "max_tokens")],
)
def test_bad_input_is_named(change: dict[str, object], named: str) -> None:
    settings = {"regime": "uniform", "num_prompts": 2, "num_samples": 2, "max_tokens": 9, "seed": 1} | change
    with pytest.raises(ValueError, match=f"^{named}: "):
        lengths(**settings)  # type: ignore[arg-type]
