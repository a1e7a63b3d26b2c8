"""Forecast sources: what is known of a prompt's responses besides its live requests.

A source gives, for each prompt of the live requests, the log-likelihood of what it knows at every level that
the prompt may have (`levels.LEVELS`). The forecast adds them up: a source that knows nothing of a prompt
gives a constant row, and sources need not know of each other.

To add a source: write a `ForecastSource`, and name it in `FORECAST_SOURCES` (CONTRIBUTING.md, "A forecast
source").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from taper_policy.arrays import FloatArray
from taper_policy.forecast.lengths import LengthHistory
from taper_policy.forecast.levels import LEVELS, tails_at
from taper_policy.forecast.stage_lengths import StageLengths
from taper_policy.forecast.survivors import SurvivorCurves

ForecastSource = Callable[[StageLengths, SurvivorCurves, LengthHistory], FloatArray]
"""Log-likelihood of what is known of each prompt of the stage, at every level [num_prompts, num_levels].

The curves turn tokens into normal scores.
"""


def ended_siblings(stage: StageLengths, curves: SurvivorCurves, history: LengthHistory) -> FloatArray:
    """Ended responses of the same prompt in this stage; one that reached the cap is a lower bound.

    Normal densities of the exact scores, tails of the capped ones.
    """
    correlation = history.past.correlation
    logs = np.zeros((len(stage.prompts), len(LEVELS)))
    known = stage.ended_prompts >= 0
    prompts, tokens = stage.ended_prompts[known], stage.ended_tokens[known]
    is_capped = tokens >= curves.edges[-1]
    scores = curves.scores(tokens + 0.5 * ~is_capped, stage.folds[prompts])
    np.add.at(logs, prompts[is_capped], np.log(tails_at(scores[is_capped], correlation)))
    exact, num_prompts = ~is_capped, len(stage.prompts)
    count = np.bincount(prompts[exact], minlength=num_prompts)[:, None]
    total = np.bincount(prompts[exact], scores[exact], minlength=num_prompts)[:, None]
    means = math.sqrt(correlation) * LEVELS
    return logs + means * (total - 0.5 * count * means) / (1.0 - correlation)


def earlier_stage(stage: StageLengths, curves: SurvivorCurves, history: LengthHistory) -> FloatArray:
    """The prompt's mean score in its last stage: a normal density around what it leads to expect now."""
    past = history.past
    levels = [history.level(prompt) for prompt in stage.prompts]
    mean = np.array([0.0 if level is None else level.mean_score for level in levels])
    count = np.array([0 if level is None else level.num_samples for level in levels])
    between = past.correlation * (1.0 - past.persistence**2)
    variance = between + (1.0 - past.correlation) / np.maximum(count, 1)
    distance = mean[:, None] - math.sqrt(past.correlation) * past.persistence * LEVELS
    return np.where(count[:, None] > 0, -0.5 * distance**2 / variance[:, None], 0.0)


FORECAST_SOURCES: Final[list[ForecastSource]] = [ended_siblings, earlier_stage]
"""All sources that forecasts use."""
