"""Prices for tests: part of a step is fixed, part is shared by the ranks, the rest grows with the batch."""

from __future__ import annotations

import dataclasses

from taper_policy.arrays import FloatArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearSteps:
    """Seconds of a step: `fixed + shared / degree + request * batch + token * context`."""

    degree: int
    fixed: float
    shared: float
    request: float
    token: float

    def seconds(self, batch: FloatArray, context_tokens: FloatArray, busy_groups: int) -> FloatArray:
        base = self.fixed + self.shared / self.degree
        seconds: FloatArray = base + self.request * batch + self.token * context_tokens
        return seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearMachine:
    """Prices of a replica; a switch takes `pause`, and something for each request and context token."""

    fixed: float = 1.0
    shared: float = 8.0
    request: float = 1.0
    token: float = 0.01
    pause: float = 7.0
    pause_request: float = 0.0
    pause_token: float = 0.0

    def steps(self, degree: int) -> LinearSteps:
        return LinearSteps(
            degree=degree, fixed=self.fixed, shared=self.shared, request=self.request, token=self.token
        )

    def pause_seconds(
        self, from_degree: int, to_degree: int, requests: FloatArray, context_tokens: FloatArray
    ) -> FloatArray:
        pause: FloatArray = self.pause + self.pause_request * requests + self.pause_token * context_tokens
        return pause
