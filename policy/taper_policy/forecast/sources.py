"""Forecast sources: what is known of a prompt's responses besides its live requests.

A source gives, for each prompt of the live requests, the log-likelihood of what it knows at every level that
the prompt may have (`levels.LEVELS`). The forecast adds them up: a source that knows nothing of a prompt
gives a constant, and sources need not know of each other.

To add a source: write a class with the two methods of `ForecastSource`, and list an instance in
`FORECAST_SOURCES` (CONTRIBUTING.md, "A forecast source").
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np

from taper_policy.arrays import FloatArray
from taper_policy.forecast.lengths import LengthHistory
from taper_policy.forecast.levels import LEVELS, tails_at
from taper_policy.forecast.stage_lengths import StageLengths
from taper_policy.forecast.survivors import SurvivorCurves


class ForecastSource(Protocol):
    """Evidence about the level of each prompt of the live requests."""

    def log_likelihood(
        self, stage: StageLengths, curves: SurvivorCurves, history: LengthHistory
    ) -> FloatArray:
        """Of what is known of each prompt of `stage.prompts`, at every level [num_prompts, num_levels].

        `curves` turns tokens into normal scores. A constant row says nothing of its prompt.
        """

    def describe(self, stage: StageLengths, history: LengthHistory) -> list[str]:
        """For each prompt, in words, what the source knows of it; empty for nothing [num_prompts]."""


class EndedSiblings:
    """Ended responses of the same prompt in this stage; one that reached the cap is a lower bound."""

    def log_likelihood(
        self, stage: StageLengths, curves: SurvivorCurves, history: LengthHistory
    ) -> FloatArray:
        """Normal densities of the exact scores, tails of the capped ones."""
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

    def describe(self, stage: StageLengths, history: LengthHistory) -> list[str]:
        """How many siblings have ended, and how many others live."""
        num_prompts = len(stage.prompts)
        ended = np.bincount(stage.ended_prompts[stage.ended_prompts >= 0], minlength=num_prompts)
        live = np.bincount(stage.live_prompts, minlength=num_prompts)
        pairs = zip(ended.tolist(), live.tolist(), strict=True)
        return [f"siblings: {done} ended, {left - 1} live" if done + left > 1 else "" for done, left in pairs]


class EarlierStage:
    """The prompt's mean score in its last stage, correlated with its level now."""

    def log_likelihood(
        self, stage: StageLengths, curves: SurvivorCurves, history: LengthHistory
    ) -> FloatArray:
        """A normal density around what that stage leads to expect."""
        past = history.past
        levels = [history.level(prompt) for prompt in stage.prompts]
        mean = np.array([0.0 if level is None else level.mean_score for level in levels])
        count = np.array([0 if level is None else level.num_samples for level in levels])
        between = past.correlation * (1.0 - past.persistence**2)
        variance = between + (1.0 - past.correlation) / np.maximum(count, 1)
        distance = mean[:, None] - math.sqrt(past.correlation) * past.persistence * LEVELS
        return np.where(count[:, None] > 0, -0.5 * distance**2 / variance[:, None], 0.0)

    def describe(self, stage: StageLengths, history: LengthHistory) -> list[str]:
        """How many samples that stage had."""
        levels = [history.level(prompt) for prompt in stage.prompts]
        return [f"{level.num_samples} of an earlier stage" if level else "" for level in levels]


FORECAST_SOURCES: Final[list[ForecastSource]] = [EndedSiblings(), EarlierStage()]
"""All sources that forecasts use, in the order in which they are described."""
