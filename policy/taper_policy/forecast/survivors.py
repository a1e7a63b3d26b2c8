"""Survivor curves: which share of a job's requests is longer than so many tokens.

Estimator: Kaplan-Meier on cells, with a prior. A request that has ended is an event, a live
one is known to be longer than what it has decoded, and one that ended at `max_tokens` is
known to reach the cap, no more: the cap is an atom. The prior enters as `PRIOR_LENGTHS`
lengths of its own shape (the discrete beta process of Hjort, Annals of Statistics 18, 1990,
with the strength of a Dirichlet process), so no length below the cap is ever impossible.

Prior: a log-normal with DeepScaleR's tail as PAT saw it (arXiv 2605.23945: 10.85 % beyond 8K,
about 2.2 % at the cap of 24,576 tokens: mu 7.27, sigma 1.41), moved with the cap, and capped.

Cells: integer length L fills [L, L + 1), so "longer than d" is the point d + 1. Within a
cell the curve's normal score is linear.

Folds. A prompt's own requests of this stage must not bend the curve by which their scores
are read: moving one length can lower a Kaplan-Meier curve further on, and longer siblings
would then shorten a forecast. So prompts are dealt into `NUM_FOLDS` folds, and a fold's
curve is made of the past and of the other folds' requests.

Invariants (asserted by `tests/policy/forecast/test_survivors.py`):
- without censoring and with many lengths the curve is the empirical one;
- a request that is still live raises the curve of the other folds, and leaves its own fold's alone;
- `positions` is the inverse of `scores`, to within a step of its table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from taper_policy.arrays import BoolArray, FloatArray, IntArray
from taper_policy.forecast.lengths import CDF, SCORES, PastLengths, normal_scores

NUM_FOLDS: Final = 4
PRIOR_LENGTHS: Final = 4.0
PRIOR_MU: Final = 7.27
PRIOR_SIGMA: Final = 1.41
PRIOR_CAP_TOKENS: Final = 24_576

_NUM_GEOMETRIC: Final = 129
# Where the past has lengths: at even shares, and finer in both tails, at even scores.
_EDGE_SHARES: Final = np.union1d(
    np.linspace(0.0, 1.0, 49), np.interp(np.linspace(-3.8, 3.8, 77), SCORES, CDF)
)
_TABLE_STEP: Final = 0.01
_TABLE_SCORES: Final = np.arange(-500, 501) * _TABLE_STEP
_OTHER_FOLDS: Final = 1.0 - np.eye(NUM_FOLDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorCurves:
    """A curve a fold. `edges` [num_edges] from 1 to `max_tokens`; `scores_at` [NUM_FOLDS, num_edges].

    A curve's score at an edge is the normal quantile of the share of lengths below it;
    beyond the last edge lies the atom of the cap. `table` holds the positions of `_TABLE_SCORES`,
    fold after fold.
    """

    edges: FloatArray
    scores_at: FloatArray
    table: FloatArray

    def scores(self, positions: FloatArray, folds: IntArray) -> FloatArray:
        """Normal scores of positions in [1, max_tokens], each by its fold's curve."""
        stride = self.edges[-1] + 1.0
        axis = (self.edges + stride * np.arange(NUM_FOLDS)[:, None]).ravel()
        scores: FloatArray = np.interp(positions + stride * folds, axis, self.scores_at.ravel())
        return scores

    def positions(self, scores: FloatArray, folds: IntArray) -> FloatArray:
        """Positions in [1, max_tokens] of `scores` [num, many], each row by its fold's curve."""
        place = np.clip((scores - _TABLE_SCORES[0]) / _TABLE_STEP, 0.0, len(_TABLE_SCORES) - 1.001)
        lower = place.astype(np.int64)
        share = place - lower
        lower += folds[:, None] * len(_TABLE_SCORES)
        found: FloatArray = self.table[lower]
        found += share * (self.table[lower + 1] - found)
        return found


def survivor_curves(
    past: PastLengths, tokens: IntArray, folds: IntArray, has_ended: BoolArray, *, max_tokens: int
) -> SurvivorCurves:
    """The curves of a job that has seen `past`, and of the present stage the requests of the arrays [num].

    They have ended at `tokens`, or live and will make `tokens` at least. `folds` are those of their prompts.
    """
    cells = _cells(past, max_tokens)
    events, exposures = _count(cells.edges, np.minimum(tokens, max_tokens), folds, has_ended)
    events = _OTHER_FOLDS @ events + cells.events
    exposures = _OTHER_FOLDS @ exposures + cells.exposures
    below = np.zeros((NUM_FOLDS, len(cells.edges)))
    below[:, 1:] = 1.0 - np.cumprod(1.0 - events / exposures, axis=1)
    # The ramp keeps the scores ascending where no cell has weight, so that they can be inverted.
    ramp = 1e-9 * np.arange(len(cells.edges))
    scores_at = normal_scores(below) + ramp
    table = np.concatenate([np.interp(_TABLE_SCORES, row, cells.edges) for row in scores_at])
    return SurvivorCurves(edges=cells.edges, scores_at=scores_at, table=table)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """The cells between `edges`, and of each: lengths of past and prior that end in it, and that reach it."""

    edges: FloatArray
    events: FloatArray
    exposures: FloatArray


@lru_cache(maxsize=8)
def _cells(past: PastLengths, max_tokens: int) -> _Cells:
    """Cells that are fine where the past has lengths; they stay as they are for the whole stage."""
    edges = [np.round(np.geomspace(1, max_tokens, _NUM_GEOMETRIC)).astype(np.int64)]
    if len(past.tokens):
        places = np.round(_EDGE_SHARES * (len(past.tokens) - 1)).astype(np.int64)
        edges += [past.tokens[places], past.tokens[places] + 1]
    edge = np.unique(np.clip(np.concatenate(edges), 1, max_tokens)).astype(np.float64)
    ends = np.searchsorted(edge, past.tokens, "right") - 1
    weights = np.bincount(ends, past.weights, minlength=len(edge))
    prior = PRIOR_LENGTHS * np.diff(_prior_below(edge, max_tokens), append=1.0)
    total = weights + prior
    reaching = np.cumsum(total[::-1])[::-1]
    return _Cells(edges=edge, events=total[:-1], exposures=reaching[:-1])


def _prior_below(positions: FloatArray, max_tokens: int) -> FloatArray:
    mu = PRIOR_MU + math.log(max_tokens / PRIOR_CAP_TOKENS)
    below: FloatArray = np.interp((np.log(positions) - mu) / PRIOR_SIGMA, SCORES, CDF)
    below[0] = 0.0
    return below


def _count(
    edges: FloatArray, tokens: IntArray, folds: IntArray, has_ended: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Of each fold and cell: requests that end in it, and that reach it (a live one: the part it lived)."""
    num_edges = len(edges)
    cell = np.searchsorted(edges, tokens, "right") - 1
    place = folds * num_edges + cell
    size = NUM_FOLDS * num_edges
    last = cell == num_edges - 1
    is_event = has_ended & ~last
    events = np.bincount(place[is_event], minlength=size).reshape(NUM_FOLDS, num_edges)
    lived = (tokens - edges[cell]) / (edges[np.minimum(cell + 1, num_edges - 1)] - edges[cell] + last)
    partly = np.bincount(place, np.where(is_event, 1.0, lived), minlength=size).reshape(events.shape)
    here = np.bincount(place, minlength=size).reshape(events.shape)
    beyond = np.cumsum(here[:, ::-1], axis=1)[:, ::-1] - here
    exposures: FloatArray = beyond.astype(np.float64) + partly
    return events[:, :-1].astype(np.float64), exposures[:, :-1]
