"""A forecast source is a function, listed in one place."""

from __future__ import annotations

import numpy as np
import pytest

from taper_policy.arrays import FloatArray
from taper_policy.forecast import forecast as forecast_module
from taper_policy.forecast.forecast import Forecast, LiveRequest, forecast
from taper_policy.forecast.lengths import LengthHistory
from taper_policy.forecast.levels import LEVELS
from taper_policy.forecast.sources import FORECAST_SOURCES, ForecastSource
from taper_policy.forecast.stage_lengths import StageLengths
from taper_policy.forecast.survivors import SurvivorCurves

LIVE = [
    LiveRequest(rid=rid, prompt=prompt, group=0, prompt_tokens=20, decoded_tokens=10)
    for rid, prompt in (("a", "proof"), ("b", "proof"), ("c", "greeting"))
]


def known_proofs(stage: StageLengths, curves: SurvivorCurves, history: LengthHistory) -> FloatArray:
    """A new source: prompts called "proof" have long responses, two standard deviations above the mean."""
    is_proof = np.array([prompt == "proof" for prompt in stage.prompts])
    return np.where(is_proof[:, None], -0.5 * ((LEVELS - 2.0) / 0.3) ** 2, 0.0)


def forecast_with(sources: list[ForecastSource], monkeypatch: pytest.MonkeyPatch) -> Forecast:
    monkeypatch.setattr(forecast_module, "FORECAST_SOURCES", sources)
    return forecast(LIVE, LengthHistory(), max_tokens=4096)


def test_a_new_source_changes_the_forecasts_that_it_knows_about(monkeypatch: pytest.MonkeyPatch) -> None:
    before = forecast_with(FORECAST_SOURCES, monkeypatch)
    after = forecast_with([*FORECAST_SOURCES, known_proofs], monkeypatch)
    assert (after.quantiles[:2] >= before.quantiles[:2]).all()
    assert np.median(after.quantiles[:2]) > 1.3 * np.median(before.quantiles[:2])
    # Both samples are known to be long, so less of their spread is shared.
    assert (after.shared[:2] < before.shared[:2]).all()


def test_a_source_that_knows_nothing_of_a_prompt_leaves_its_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    before = forecast_with(FORECAST_SOURCES, monkeypatch)
    after = forecast_with([*FORECAST_SOURCES, known_proofs], monkeypatch)
    assert (after.quantiles[2] == before.quantiles[2]).all()


def test_every_source_gives_a_row_for_each_prompt() -> None:
    history = LengthHistory()
    history.start_stage()
    stage = StageLengths.of(["x", "y", "x"], [3, 4, 5], history, 100)
    curves = stage.curves(history.past, 100)
    for source in FORECAST_SOURCES:
        assert source(stage, curves, history).shape == (2, len(LEVELS))
