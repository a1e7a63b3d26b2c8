"""Estimates from samples of which some are bad: medians with their interval, and non-negative terms.

Half widths come from order statistics: whatever the distribution, the median lies between
the k-th least and the k-th greatest of n samples with the probability that a fair coin
falls between k and n - k times heads. Samples are taken as independent.

Terms (seconds = sum of amounts * terms, terms >= 0) minimise the relative errors by
Huber's loss: residuals beyond `HUBER` robust standard deviations weigh by their size, not
its square (iteratively reweighted least squares, Huber 1981). The non-negative solution of
each round is exact: of the least-squares solutions over each subset of the terms, the best
without a negative one. With equal errors the fewest and first terms win.

Invariants (asserted by `tests/policy/profile/test_robust_fit.py`):
- the interval holds the median, and holds the true one in 95 % of trials at least;
- exact samples give their terms back, also with a tenth of them spoilt;
- no term is negative.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from taper_policy.arrays import FloatArray

CONFIDENCE: Final = 0.95
# With fewer, even the whole range holds the median less often than `CONFIDENCE`.
MIN_FOR_INTERVAL: Final = 6
HUBER: Final = 1.345
ROUNDS: Final = 30


def median_and_half_width(samples: Sequence[float]) -> tuple[float, float]:
    """The median and the larger half width of its distribution-free 95 % interval.

    Raises `ValueError` for fewer than `MIN_FOR_INTERVAL` samples.
    """
    count = len(samples)
    if count < MIN_FOR_INTERVAL:
        raise ValueError(f"{count} samples; the interval of a median needs {MIN_FOR_INTERVAL}")
    ordered = sorted(samples)
    median = statistics.median(ordered)
    skipped = _num_skipped(count)
    return median, max(median - ordered[skipped], ordered[count - 1 - skipped] - median)


def _num_skipped(count: int) -> int:
    """How many of `count` samples may lie outside on each side, at most 2.5 % of the chance on either."""
    limit = (1 - CONFIDENCE) / 2 * 2**count
    total, skipped = 1, 0
    while total + math.comb(count, skipped + 1) <= limit:
        skipped += 1
        total += math.comb(count, skipped)
    return skipped


def nonnegative_terms(amounts: FloatArray, seconds: FloatArray) -> FloatArray:
    """The terms `[terms]` that explain `seconds` `[samples]` by `amounts` `[samples, terms]`; all >= 0.

    A column without an amount gets 0. Raises `ValueError` for seconds that are not above zero.
    """
    if not (seconds.size and seconds.min() > 0 and np.isfinite(seconds).all()):
        raise ValueError("seconds: must be finite and above zero")
    scales = np.maximum(amounts.max(axis=0), 0.0)
    used = np.flatnonzero(scales > 0)
    rows = amounts[:, used] / scales[used] / seconds[:, None]
    weights = np.ones(len(seconds))
    solution = np.zeros(len(used))
    for _ in range(ROUNDS):
        solution = _nonnegative_least_squares(rows * weights[:, None], weights)
        errors = np.abs(rows @ solution - 1.0)
        spread = 1.4826 * float(np.median(errors))
        # Below rounding there is nothing to weigh.
        bound = HUBER * max(spread, 1e-9)
        # Squared errors are weighed by bound / error, so rows by its root.
        before, weights = weights, np.sqrt(bound / np.maximum(errors, bound))
        if np.abs(weights - before).max() < 1e-4:
            break
    terms = np.zeros(amounts.shape[1])
    terms[used] = solution / scales[used]
    return terms


def _nonnegative_least_squares(rows: FloatArray, wanted: FloatArray) -> FloatArray:
    """Exact for the few terms there are: the optimum is the least-squares solution over its own support."""
    num_terms = rows.shape[1]
    best, least = np.zeros(num_terms), float(wanted @ wanted)
    for size in range(1, num_terms + 1):
        for subset in combinations(range(num_terms), size):
            columns = rows[:, subset]
            solution = np.linalg.lstsq(columns, wanted, rcond=1e-10)[0]
            rest = columns @ solution - wanted
            error = float(rest @ rest)
            if solution.min() >= 0 and error < least * (1 - 1e-9) - 1e-24:
                best, least = np.zeros(num_terms), error
                best[list(subset)] = solution
    return best


def relative_errors(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> FloatArray:
    """The error of each prediction as a share of what was measured."""
    truth = np.asarray(measured, dtype=np.float64)
    errors: FloatArray = np.abs(np.asarray(predicted, dtype=np.float64) - truth) / truth
    return errors


def p90(errors: FloatArray) -> float:
    """The least of `errors` that nine tenths of them do not exceed; never an interpolated, smaller one."""
    return float(np.quantile(errors, 0.9, method="inverted_cdf"))
