"""Limits how often a process with many threads connects to an API server that does not answer.

Until the first answer, and after a failed connection, one attempt at a time is let through, at growing
intervals; all other requests fail at once without a connection. Any answer closes the circuit.

Invariants (asserted by `tests/operator/kube/test_circuit_breaker.py`):
- while nothing answers, at most ten connections a minute are tried, however many threads ask, also in a
  process that has just started;
- after an answer no request is held back;
- several failures of attempts that began before the latest failure count once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from taper_operator.kube.backoff import Backoff
from taper_operator.kube.errors import Unreachable

BACKOFF = Backoff(first_seconds=1.0, cap_seconds=10.0)
# Callers that were held back ask again this often: it costs nothing, and they notice an answer soon.
_ASK_AGAIN_SECONDS = 1.0
# While no attempt has failed, an answer may come at any moment.
_ASK_SOON_SECONDS = 0.1
# A little longer than the timeout for connecting.
_ATTEMPT_SECONDS = 6.0


@dataclass(eq=False, kw_only=True)
class CircuitBreaker:
    """See the module's docstring. Its methods may be called from any thread. clock: monotonic seconds"""

    clock: Callable[[], float] = time.monotonic
    random: Random = field(default_factory=Random)
    backoff: Backoff = BACKOFF

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.is_open = True
        self._failures = 0
        self._next_attempt_at = float("-inf")
        self._epoch = 0

    def begin(self) -> int:
        """Call before connecting; returns the epoch to pass to `failed`.

        Raises Unreachable where no attempt is allowed now.
        """
        with self._lock:
            if self.is_open:
                now = self.clock()
                if now < self._next_attempt_at:
                    again = _ASK_AGAIN_SECONDS if self._failures else _ASK_SOON_SECONDS
                    wait = min(self._next_attempt_at - now, again)
                    raise Unreachable("the API server does not answer", retry_after_seconds=wait)
                # No other attempt until this one has failed, or should have.
                self._next_attempt_at = now + _ATTEMPT_SECONDS
            return self._epoch

    def answered(self) -> None:
        with self._lock:
            self.is_open = False
            self._failures = 0

    def failed(self, epoch: int) -> None:
        """The attempt of that epoch could not connect, or its connection broke before an answer."""
        with self._lock:
            if epoch == self._epoch:
                self.is_open = True
                self._epoch += 1
                self._failures += 1
                wait = self.backoff.delay_seconds(self._failures, self.random)
                self._next_attempt_at = self.clock() + wait

    def suspect(self) -> None:
        """A watch broke: one request tests whether the API server is alive before all reconnect."""
        with self._lock:
            if not self.is_open:
                self.is_open = True
                self._next_attempt_at = self.clock()
