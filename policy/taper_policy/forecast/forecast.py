"""How many tokens each live request has yet to make, as a distribution.

Model. Lengths are read as normal scores through the job's survivor curve (`survivors.py`).
The score of a sample is `sqrt(c) * level + sqrt(1 - c) * noise`: the level is its prompt's, the
noise its own, c the correlation of siblings (a Gaussian copula within each prompt). A
sibling that has ended shows its score; a live one, or one that ended at the cap, shows that
its score is above some point; the prompt's last stage shows its level then, which correlates
with that of now. The posterior of each prompt's level is summed over a grid, without
approximation of the censored terms, and a request's forecast is the mixture over the levels of
what lies beyond its own decoded tokens. In a job's first stage the curve is the prior, bent
by what the other prompts have shown so far.

Cost: O(live requests x (levels + score knots)), all in numpy: for 1,024 of 128 prompts
about 3 ms of one core of a busy machine.

Invariants (asserted by `tests/policy/forecast/test_forecast.py`):
- 90 % intervals hold 88-92 % of the true lengths on stationary jobs (`test_forecast_coverage.py`);
- more decoded tokens never make a request's forecast total shorter, in no quantile;
- a sibling that is longer, ended or live, never makes a forecast shorter, in no quantile;
- draws of siblings are correlated as far as their prompt's level is not known yet;
- between 1 and `max_tokens - decoded_tokens`; quantiles never fall;
- a function of the set of live requests: their order does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from taper_policy.arrays import FloatArray, IntArray
from taper_policy.forecast.lengths import LengthHistory
from taper_policy.forecast.levels import KNOTS, LEVELS, tails, tails_at
from taper_policy.forecast.sources import FORECAST_SOURCES
from taper_policy.forecast.stage_lengths import StageLengths
from taper_policy.forecast.survivors import SurvivorCurves

# Even ones, and some in the upper tail: a stage lasts as long as the longest of many.
PROBABILITIES: Final = np.append((np.arange(32) + 0.5) / 32, (0.992, 0.996, 0.999))
NUM_QUANTILES: Final = len(PROBABILITIES)

_GAPS: Final = np.diff(PROBABILITIES)
# Requests whose arrays fit a core's cache together, and which malloc need not take from the system.
_BLOCK: Final = 256
_FIELDS: Final = attrgetter("rid", "prompt", "decoded_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRequest:
    """A request that decodes, or waits to.

    rid: unique among the live requests
    prompt: digest that the samples of one prompt share
    group: index of the group that serves it
    prompt_tokens, decoded_tokens: tokens of its prompt, and of its response so far
    """

    rid: str
    prompt: str
    group: int
    prompt_tokens: int
    decoded_tokens: int

    def __post_init__(self) -> None:
        for name in ("group", "prompt_tokens", "decoded_tokens"):
            number = getattr(self, name)
            if number < 0:
                raise ValueError(f"{name}: {number} is negative (request {self.rid})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """Remaining tokens of the live requests, in their order.

    rids, prompts: of the requests
    quantiles: remaining tokens at `PROBABILITIES`, 1 or more [num_live, NUM_QUANTILES]
    shared: correlation of the scores of a request and its live siblings, by what is known now [num_live]
    """

    rids: tuple[str, ...]
    prompts: tuple[str, ...]
    quantiles: IntArray
    shared: FloatArray

    def scenarios(self, count: int, seed: int) -> IntArray:
        """`count` independent draws of the remaining tokens of every request [count, num_live].

        Stratified: of a request's draws one lies in each `count`th of its distribution; where in
        it, and in which order they come, depends on `seed`, its rid and, as far as siblings
        share their length, its prompt. `ValueError` for a count below 1.
        """
        if count < 1:
            raise ValueError(f"count: {count} is not 1 or more")
        own, level = _keys(self.rids, count, seed), _keys(self.prompts, count, seed + 1)
        shared = self.shared[:, None]
        # Logistic scores: they order the draws nearly as normal ones would, and cost a fraction.
        scores = np.sqrt(shared) * np.arctanh(_signed(level))
        scores += np.sqrt(1.0 - shared) * np.arctanh(_signed(own))
        ranks = np.empty(scores.shape)
        np.put_along_axis(ranks, np.argsort(scores, axis=1), np.arange(float(count))[None, :], axis=1)
        within = 0.5 + 0.5 * _signed(_mixed(own))
        rows = np.arange(len(self.rids))[:, None]
        return self._at((ranks + within) / count, rows).T.astype(np.int64)

    def _at(self, probabilities: FloatArray, rows: IntArray) -> FloatArray:
        """Quantiles of requests `rows` (broadcast), linear between those kept, the outermost beyond them."""
        lower = np.searchsorted(PROBABILITIES[1:-1], probabilities)
        share = (probabilities - PROBABILITIES[lower]) / _GAPS[lower]
        cells = rows * NUM_QUANTILES + lower
        kept = self.quantiles.ravel()
        below = kept[cells]
        found: FloatArray = below + np.clip(share, 0.0, 1.0) * (kept[cells + 1] - below)
        return found


def forecast(live: Sequence[LiveRequest], history: LengthHistory, *, max_tokens: int) -> Forecast:
    """The forecast of every live request of a stage, given what the job has shown.

    `max_tokens` is the longest response. Raises `ValueError`, with the field's path, for a request
    that has made `max_tokens` (it is not live) and for a rid that is there twice.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens: {max_tokens} is not 1 or more")
    if not live:
        nothing = np.empty((0, NUM_QUANTILES), np.int64)
        return Forecast(rids=(), prompts=(), quantiles=nothing, shared=np.empty(0))
    rids, prompts, decoded_tokens = zip(*map(_FIELDS, live), strict=True)
    _check(rids, decoded_tokens, max_tokens)
    stage = StageLengths.of(prompts, decoded_tokens, history, max_tokens)
    curves = stage.curves(history.past, max_tokens)
    totals, shared = _total_quantiles(stage, curves, history)
    decoded = stage.decoded_tokens[:, None]
    back = np.argsort(stage.order)
    return Forecast(
        rids=rids,
        prompts=prompts,
        quantiles=np.clip(totals - decoded, 1, max_tokens - decoded)[back],
        shared=shared[stage.live_prompts][back],
    )


def _total_quantiles(
    stage: StageLengths, curves: SurvivorCurves, history: LengthHistory
) -> tuple[IntArray, FloatArray]:
    """Decoded and remaining tokens together, at `PROBABILITIES` [num_live, NUM_QUANTILES].

    And of each prompt the correlation of its live samples' scores [num_prompts].
    """
    correlation, folds = history.past.correlation, stage.folds[stage.live_prompts]
    passed = curves.scores((stage.decoded_tokens + 1).astype(np.float64), folds)
    own = tails_at(passed, correlation)
    weights = _level_weights(stage, curves, history, own)
    totals = np.empty((len(passed), NUM_QUANTILES), np.int64)
    for start in range(0, len(passed), _BLOCK):
        block = slice(start, start + _BLOCK)
        mixture = weights[stage.live_prompts[block]] / own[block]
        scores = _score_quantiles(mixture, passed[block], correlation)
        # The tiny step up is for positions that are whole but for rounding, as the cap is.
        totals[block] = curves.positions(scores, folds[block]) + 1e-6
    spread = weights @ LEVELS**2 - (weights @ LEVELS) ** 2
    return totals, correlation * spread / (correlation * spread + 1.0 - correlation)


def _level_weights(
    stage: StageLengths, curves: SurvivorCurves, history: LengthHistory, own: FloatArray
) -> FloatArray:
    """Of each prompt, the weights of `LEVELS` given all its samples have shown [num_prompts, num_levels].

    `own` is the likelihood, for every level, of what each live request has passed [num_live, num_levels].
    """
    logs = np.broadcast_to(-0.5 * LEVELS**2, (len(stage.prompts), len(LEVELS))).copy()
    for source in FORECAST_SOURCES:
        logs += source(stage, curves, history)
    # Every prompt has a live request, and they lie prompt after prompt.
    logs += np.add.reduceat(np.log(own), np.searchsorted(stage.live_prompts, np.arange(len(stage.prompts))))
    weights: FloatArray = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _score_quantiles(weights: FloatArray, passed: FloatArray, correlation: float) -> FloatArray:
    """Scores at `PROBABILITIES` of requests that have passed the score `passed` [num_live, NUM_QUANTILES].

    `weights` are those of the levels over the request's own likelihood [num_live, num_levels]:
    times the tails beyond a score, and summed, they give the probability to go beyond it.
    """
    # Up to `passed` every tail is at least the request's own: there the minimum makes it exactly 1.
    beyond = np.minimum(weights @ tails(correlation).T, 1.0)
    beyond[:, -1] = 0.0
    rows = np.arange(len(weights))[:, None]
    knots = np.maximum(KNOTS, passed[:, None])
    # One axis for all requests, row after row: a request's probabilities fill [row, row + 1].
    found = np.interp((PROBABILITIES + rows).ravel(), (rows + 1.0 - beyond).ravel(), knots.ravel())
    return found.reshape(len(weights), NUM_QUANTILES)


def _check(rids: Sequence[str], decoded_tokens: Sequence[int], max_tokens: int) -> None:
    for index, decoded in enumerate(decoded_tokens):
        if decoded >= max_tokens:
            made = f"{decoded} of at most {max_tokens}"
            raise ValueError(f"live[{index}].decoded_tokens: {made}; request {rids[index]} cannot be live")
    if len(set(rids)) < len(rids):
        index = next(index for index, rid in enumerate(rids) if rid in rids[:index])
        raise ValueError(f"live[{index}].rid: {rids[index]} is there twice")


def _keys(names: Sequence[str], count: int, seed: int) -> npt.NDArray[np.uint64]:
    """Numbers that depend on the name, the draw and `seed` alone [num_names, count]."""
    ids = np.array([crc32(name.encode()) for name in names], np.uint64)
    draws = np.arange(count, dtype=np.uint64)
    return _mixed(_mixed(ids ^ _mixed(np.array([seed % 2**64], np.uint64)))[:, None] + draws)


def _signed(keys: npt.NDArray[np.uint64]) -> FloatArray:
    """Of each key a number in (-1, 1)."""
    # 52 bits and a half: what a float holds without rounding to an end.
    signed: FloatArray = ((keys >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-51 - 1.0
    return signed


def _mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014): neighbouring keys become unrelated."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
