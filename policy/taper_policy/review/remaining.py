"""Duration of the rest of a stage, had its layout stayed as it was: known lengths, the profile's step times.

This prices the alternative to a switch. The switch's measured gain is this duration minus the time that the
rest of the stage really took.

Each group decodes all its requests at once, one token a step for each; no request joins. The stage ends with
its slowest group.

Invariants (asserted by `tests/policy/review/test_remaining.py`):
- equal to a simulation step by step;
- never falls when a request has more tokens to come, if larger batches and longer contexts never cost less;
- does not depend on the order of requests or on the numbering of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taper_policy.decision.pricing import Prices
from taper_policy.simulation.step_clock import StepClock
from taper_policy.simulation.timeline import Batches, Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainingRequest:
    """A live request with its true length: its group, its context, and the response tokens yet to come."""

    group: int
    context_tokens: int
    remaining_tokens: int


def remaining_seconds(
    requests: Sequence[RemainingRequest], prices: Prices, *, footprint: int, degree: int
) -> float:
    """Seconds until the last of `requests` has ended in the layout of `degree`; 0 if none has tokens to come.

    Raises `ValueError` for a negative count and for a degree without a price.
    """
    if not any(request.remaining_tokens for request in requests):
        return 0.0
    left = np.array([[request.remaining_tokens for request in requests]], dtype=np.int64)
    contexts = np.array([[request.context_tokens for request in requests]], dtype=np.int64)
    if left.min() < 0:
        raise ValueError(f"remaining_tokens: {left.min()} is negative")
    clock = StepClock(
        prices, footprint=footprint, max_batch=len(requests), max_context=int((contexts + left).max())
    )
    batches = Batches(
        degree=degree,
        left=left,
        contexts=contexts,
        groups=np.array([[request.group for request in requests]], dtype=np.int64),
        at_seconds=np.zeros(1),
    )
    return float(Timeline(batches, clock).ends_at.max())
