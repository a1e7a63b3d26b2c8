"""Corrects a profile's decode-step times by what was measured while serving.

A profile is measured once, on an engine that does nothing else; what runs beside it later, and how warm
the machine is, changes. After each stage the measured seconds of its steps are compared with the
profile's, by degree and by batch size (bins of a factor of two): the ratio of their sums is the bin's
factor. Stages are averaged in logarithms, each with a weight that grows with its steps up to
`MOST_WEIGHT`; the last stages count most. Factors are bounded: beyond `BOUND` the profile belongs to
another machine.

Between the centres of the bins that were seen, a factor is linear over the logarithm of the batch; beyond
them it is that of the nearest bin. A degree that was never seen has the mean of the others there: what
slows one layout slows all.

Invariants (asserted by `tests/policy/decision/test_correction.py`):
- steps that take what the profile says change nothing;
- steps that all take the same multiple are learned exactly, within the bound;
- every factor lies within the bound, and between those of the bins next to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from taper_policy.arrays import FloatArray
from taper_policy.decision.pricing import Prices
from taper_policy.decision.scenarios import StepSeconds

BOUND: Final = 2.0
# As many steps weigh half of what they could.
HALF_STEPS: Final = 16
MOST_WEIGHT: Final = 0.5


class TimedStep(NamedTuple):
    """A measured decode step of a group; `context_tokens` is the mean over its requests."""

    degree: int
    batch: int
    context_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Correction:
    """Factors on the seconds of steps: of each degree, by bin. Bin `b` holds batches from `2**b` on."""

    factors: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    def of(self, degree: int, batch: FloatArray) -> FloatArray:
        """The factor of each batch, elementwise."""
        bins = self.factors.get(degree) or self._of_others()
        if not bins:
            return np.ones(np.shape(batch))
        places = [middle(one) for one in sorted(bins)]
        logarithms = [math.log(bins[one]) for one in sorted(bins)]
        found: FloatArray = np.exp(np.interp(np.log2(np.maximum(1.0, batch)), places, logarithms))
        return found

    def _of_others(self) -> dict[int, float]:
        seen: dict[int, list[float]] = {}
        for bins in self.factors.values():
            for one, factor in bins.items():
                seen.setdefault(one, []).append(math.log(factor))
        return {one: math.exp(sum(found) / len(found)) for one, found in seen.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Correction:
        """The correction of these factors, read from JSON. `ValueError`, `TypeError` or `AttributeError` for
        what is none."""
        return cls(
            {
                int(degree): {int(one): float(factor) for one, factor in bins.items()}
                for degree, bins in values.items()
            }
        )


def bin_of(batch: int) -> int:
    """The bin of a batch of 1 or more."""
    return batch.bit_length() - 1


def middle(one: int) -> float:
    """The base-2 logarithm of the batch that a bin's factor is taken for."""
    return math.log2((2**one + 2 ** (one + 1) - 1) / 2)


@dataclass(frozen=True, slots=True)
class CorrectedSteps:
    """Step times of one degree, corrected."""

    steps: StepSeconds
    correction: Correction
    degree: int

    def seconds(self, batch: FloatArray, context_tokens: FloatArray, busy_groups: int) -> FloatArray:
        plain = self.steps.seconds(batch, context_tokens, busy_groups)
        corrected: FloatArray = plain * self.correction.of(self.degree, batch)
        return corrected


@dataclass(frozen=True, slots=True)
class CorrectedPrices:
    """A profile's prices with its steps corrected."""

    prices: Prices
    correction: Correction

    def steps(self, degree: int) -> CorrectedSteps:
        return CorrectedSteps(self.prices.steps(degree), self.correction, degree)

    def pause_seconds(
        self, from_degree: int, to_degree: int, requests: FloatArray, context_tokens: FloatArray
    ) -> FloatArray:
        return self.prices.pause_seconds(from_degree, to_degree, requests, context_tokens)


def learned(correction: Correction, steps: Iterable[TimedStep], prices: Prices, footprint: int) -> Correction:
    """The correction after a stage of `steps`. All groups of a layout are assumed busy.

    Raises `ValueError` for steps of a degree that has no price.
    """
    factors = {degree: dict(bins) for degree, bins in correction.factors.items()}
    by_degree: dict[int, list[TimedStep]] = {}
    for step in steps:
        by_degree.setdefault(step.degree, []).append(step)
    for degree, made in by_degree.items():
        expected = prices.steps(degree).seconds(
            np.array([step.batch for step in made], dtype=np.float64),
            np.array([step.context_tokens for step in made], dtype=np.float64),
            footprint // degree,
        )
        of_degree = factors.setdefault(degree, {})
        bins = np.array([bin_of(step.batch) for step in made])
        seconds = np.array([step.seconds for step in made])
        for one in np.unique(bins).tolist():
            ratio = float(seconds[bins == one].sum() / expected[bins == one].sum())
            of_degree[one] = _moved(of_degree.get(one), ratio, int((bins == one).sum()))
    return Correction(factors)


def _moved(before: float | None, ratio: float, count: int) -> float:
    """A bin's factor after a stage of `count` steps that took `ratio` times what was expected."""
    weight = count / (count + HALF_STEPS)
    if before is not None:
        weight *= MOST_WEIGHT
    moved = math.exp((1.0 - weight) * math.log(before or 1.0) + weight * math.log(ratio))
    return min(BOUND, max(1.0 / BOUND, moved))
