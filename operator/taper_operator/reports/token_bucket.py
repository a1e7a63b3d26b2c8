"""A rate limit: a number of times a second on average, with short bursts.

Invariant (asserted by `tests/operator/reports/test_token_bucket.py`): in any time t at most `burst +
per_second * t`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class TokenBucket:
    """See the module's docstring. Its methods may be called from any thread. clock: monotonic seconds"""

    def __init__(self, *, per_second: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._left = burst
        self._at = clock()

    def take(self) -> bool:
        """Whether it may be done now; if so, it is counted."""
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True
