"""Step seconds as a table, made once from a profile's surface: many lookups at once are cheap.

Between the points of the table, which lie evenly over the context, a step is linear. All groups
of the layout are taken to be busy.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from taper_policy.arrays import FloatArray, IntArray
from taper_policy.decision.pricing import Prices

CONTEXT_POINTS: Final = 129


class StepClock:
    """Step seconds of batches up to `max_batch` and mean contexts up to `max_context`."""

    def __init__(self, prices: Prices, *, footprint: int, max_batch: int, max_context: int) -> None:
        self.prices, self.footprint = prices, footprint
        self._max_batch = max_batch
        self._contexts = np.linspace(0.0, max(2, max_context), CONTEXT_POINTS)
        self._tables: dict[int, FloatArray] = {}

    def seconds(self, degree: int, batch: IntArray, context_tokens: FloatArray) -> FloatArray:
        """Seconds of a step of groups of `degree` ranks, elementwise; a batch of 0 takes nothing."""
        table = self._table(degree)
        place = context_tokens * (1.0 / self._contexts[1])
        below = np.minimum(place.astype(np.int64), CONTEXT_POINTS - 2)
        share = place - below
        below += batch * CONTEXT_POINTS
        found: FloatArray = table.take(below)
        found += share * (table.take(below + 1) - found)
        return found

    def _table(self, degree: int) -> FloatArray:
        """`[batches * contexts]`, batch after batch from 0 on."""
        if degree not in self._tables:
            batches = np.arange(self._max_batch + 1, dtype=np.float64)
            batch, context = np.meshgrid(batches, self._contexts, indexing="ij")
            seconds = self.prices.steps(degree).seconds(
                np.maximum(1.0, batch), context, self.footprint // degree
            )
            seconds[0] = 0.0
            self._tables[degree] = seconds.ravel()
        return self._tables[degree]
