"""Synthetic lengths of responses: the regimes that plans are judged in.

Each regime gives the same lengths for the same seed, stages and sizes. Sources:
`lognormal` is DeepScaleR as PAT saw it (arXiv 2605.23945): P(> 8192) = 0.1085 and about 2.2 %
at the cap of 24,576, which is a log-normal of mu 7.27 and sigma 1.41; smaller caps keep its
shape. `siblings` has the same marginal, half of its variance (in logarithms) shared by the
samples of one prompt. `bimodal` mixes short answers and long ones near the cap, as reasoning
models do that sometimes do not stop. `uniform` has no tail to speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from taper_policy.arrays import FloatArray, IntArray

PUBLISHED_CAP: Final = 24_576
MU, SIGMA = 7.27, 1.41
SHARED: Final = 0.5


def lengths(regime: str, *, num_prompts: int, num_samples: int, max_tokens: int, seed: int) -> IntArray:
    """Response tokens `[num_prompts, num_samples]`, in `[1, max_tokens]`.

    Raises `ValueError` for a regime that is not in `REGIMES` and for sizes below 1.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime: {regime!r} is unknown; use {', '.join(REGIMES)}")
    for name, size in (
        ("num_prompts", num_prompts),
        ("num_samples", num_samples),
        ("max_tokens", max_tokens),
    ):
        if size < 1:
            raise ValueError(f"{name}: {size} is not 1 or more")
    random = np.random.default_rng([seed, list(REGIMES).index(regime)])
    drawn = REGIMES[regime](random, (num_prompts, num_samples), max_tokens)
    return np.clip(np.rint(drawn), 1, max_tokens).astype(np.int64)


def _lognormal(normals: FloatArray, max_tokens: int) -> FloatArray:
    scaled: FloatArray = np.exp(MU + SIGMA * normals) * max_tokens / PUBLISHED_CAP
    return scaled


def _independent(random: np.random.Generator, shape: tuple[int, int], max_tokens: int) -> FloatArray:
    return _lognormal(random.standard_normal(shape), max_tokens)


def _siblings(random: np.random.Generator, shape: tuple[int, int], max_tokens: int) -> FloatArray:
    shared, own = random.standard_normal((shape[0], 1)), random.standard_normal(shape)
    return _lognormal(SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * own, max_tokens)


def _bimodal(random: np.random.Generator, shape: tuple[int, int], max_tokens: int) -> FloatArray:
    is_long = random.random(shape) < 0.1
    short = max_tokens * 0.08 * np.exp(0.4 * random.standard_normal(shape))
    long = max_tokens * random.uniform(0.7, 1.0, shape)
    return np.where(is_long, long, short)


def _uniform(random: np.random.Generator, shape: tuple[int, int], max_tokens: int) -> FloatArray:
    return random.uniform(0.8 * max_tokens, max_tokens, shape)


REGIMES: Final[Mapping[str, Callable[[np.random.Generator, tuple[int, int], int], FloatArray]]] = {
    "lognormal": _independent,
    "bimodal": _bimodal,
    "siblings": _siblings,
    "uniform": _uniform,
}
