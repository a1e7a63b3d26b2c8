"""Levels of prompts on a grid, and how likely a sample of a prompt at each level is to exceed a score.

A sample's score is `sqrt(c) * level + sqrt(1 - c) * noise`, where c is the correlation of siblings.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

from taper_policy.arrays import FloatArray

LEVELS: Final = np.linspace(-4.0, 4.0, 33)
"""The levels that a prompt may have, in standard deviations [num_levels]."""
KNOTS: Final = np.linspace(-3.6, 5.0, 44)
"""The scores at which the tails are tabulated [num_knots]."""
# Far below any likelihood that matters, far above what a logarithm or a quotient cannot represent.
_SMALLEST: Final = 1e-200


@lru_cache(maxsize=32)
def tails(correlation: float) -> FloatArray:
    """P(score > knot | level) of a sample [num_knots, num_levels]; between the knots it is linear."""
    means, spread = math.sqrt(correlation) * LEVELS, math.sqrt(1.0 - correlation)
    distances = (KNOTS[:, None] - means) / (spread * math.sqrt(2.0))
    return np.array([[max(0.5 * math.erfc(x), _SMALLEST) for x in row] for row in distances.tolist()])


def tails_at(scores: FloatArray, correlation: float) -> FloatArray:
    """P(score > `scores` | level) [num, num_levels], from `tails`."""
    table = tails(correlation)
    place = np.clip((scores - KNOTS[0]) / (KNOTS[1] - KNOTS[0]), 0.0, len(KNOTS) - 1.0)
    knot = np.minimum(place.astype(np.int64), len(KNOTS) - 2)
    share = (place - knot)[:, None]
    lower = table[knot]
    found: FloatArray = lower + share * (table[knot + 1] - lower)
    return found
