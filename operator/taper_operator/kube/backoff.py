"""Jittered exponential backoff, as arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits of `first`, `first * factor`, ..., `cap`, each made up to `jitter` times longer.

    Jitter only ever lengthens a wait: how often something is tried has an upper bound.
    """

    first_seconds: float
    cap_seconds: float
    factor: float = 2.0
    jitter: float = 0.25

    def delay_seconds(self, failures: int, random: Random) -> float:
        """The wait after so many failures in a row, at least 1."""
        # Failures may go on for months; the exponent must not.
        wait = self.first_seconds * self.factor ** min(failures - 1, 64)
        return min(wait, self.cap_seconds) * (1 + self.jitter * random.random())
