"""Jittered exponential backoff, as pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits of `first`, `first * 2`, ..., `cap`, each lengthened by a random fraction up to `jitter`.

    Jitter never shortens a wait, so the number of tries in a given time is bounded.
    """

    first_seconds: float
    cap_seconds: float
    jitter: float = 0.25

    def delay_seconds(self, failures: int, random: Random) -> float:
        """The wait after this many failures in a row; failures is at least 1."""
        # Failures may go on for months; the exponent must not.
        wait = self.first_seconds * 2.0 ** min(failures - 1, 64)
        return min(wait, self.cap_seconds) * (1 + self.jitter * random.random())
