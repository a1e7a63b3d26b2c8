"""The queue between what sees changes and what reconciles: de-duplicating, with delays and backoff.

A key is waiting, being handled, or both: what is added while it is handled is handled again
once that is done. Who takes a key calls `done` when finished. Then the key rests: one change seldom comes
alone, and while a job's pods come up there are dozens. A key that is new is taken at once.

Invariants (asserted by `tests/operator/kube/test_work_queue.py`):
- a key is handled by one worker at a time;
- after every add the key is handled at least once, beginning after the add;
- a key waits at most once, however often it was added; keys are taken in the order in which they came;
- a delayed key is never taken early, and of several delays the shortest counts;
- between two times that a key is handled are `cooldown_seconds` at least.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Generic, TypeVar

from taper_operator.kube.backoff import Backoff

K = TypeVar("K")

BACKOFF = Backoff(first_seconds=0.25, cap_seconds=60.0)


class WorkQueue(Generic[K]):
    """See the module's docstring. Its methods may be called from any thread.

    clock: monotonic seconds
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random: Random,
        backoff: Backoff = BACKOFF,
        cooldown_seconds: float = 0.0,
    ) -> None:
        self._clock = clock
        self._random = random
        self._backoff = backoff
        self._cooldown_seconds = cooldown_seconds
        self._changed = threading.Condition()
        self._ready: deque[K] = deque()
        self._waiting: dict[K, float] = {}  # key -> since when, whether in _ready or held back by _handled
        self._handled: dict[K, float] = {}  # key -> since when
        self._cooldown_until: dict[K, float] = {}  # in the order of time
        self._due_at: dict[K, float] = {}
        self._delayed: list[tuple[float, int, K]] = []  # a heap; entries that _due_at contradicts are void
        self._sequence = 0
        self._failures: dict[K, int] = {}
        self._is_shut_down = False
        self.num_adds = 0
        self.num_retries = 0

    def add(self, key: K) -> None:
        """Have the key handled as soon as can be."""
        with self._changed:
            self._add(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key handled after so many seconds, or at once if that is not positive."""
        with self._changed:
            if seconds <= 0:
                self._add(key)
            elif not self._is_shut_down:
                self._delay(key, self._clock() + seconds)

    def add_after_failure(self, key: K) -> float:
        """Have the key handled again after its backoff, which grows until `forget`; returns the seconds."""
        with self._changed:
            self._failures[key] = self._failures.get(key, 0) + 1
            self.num_retries += 1
            seconds = self._backoff.delay_seconds(self._failures[key], self._random)
            if not self._is_shut_down:
                self._delay(key, self._clock() + seconds)
            return seconds

    def forget(self, key: K) -> None:
        """The key was handled well: its next failure is its first."""
        with self._changed:
            self._failures.pop(key, None)

    def take(self) -> K | None:
        """The next key, None if there is none now. `done` must follow."""
        with self._changed:
            return self._take()

    def take_or_wait(self) -> K | None:
        """The next key, waiting for one; None once shut down. `done` must follow."""
        with self._changed:
            while not self._is_shut_down:
                key = self._take()
                if key is not None:
                    return key
                self._changed.wait(self._seconds_to_next())
            return None

    def done(self, key: K) -> None:
        """The key is no longer handled. What was added meanwhile is ready when it has rested."""
        with self._changed:
            del self._handled[key]
            if self._cooldown_seconds > 0:
                self._rest(key, self._clock() + self._cooldown_seconds)
            elif key in self._waiting:
                self._ready.append(key)
            self._changed.notify_all()

    def shut_down(self) -> None:
        """Hand out no more keys and take no more in; those who wait for one get None."""
        with self._changed:
            self._is_shut_down = True
            self._changed.notify_all()

    # -- figures -----------------------------------------------------------------------

    def depth(self) -> int:
        """Keys that wait, without the delayed ones."""
        with self._changed:
            self._wake_due()
            return len(self._waiting)

    def oldest_wait_seconds(self) -> float:
        """How long the key that has waited longest has waited."""
        with self._changed:
            return self._seconds_since(self._waiting)

    def longest_handled_seconds(self) -> float:
        """For how long the key that is handled longest has been: a worker that is stuck shows here."""
        with self._changed:
            return self._seconds_since(self._handled)

    # -- under the lock ----------------------------------------------------------------

    def _add(self, key: K) -> None:
        if self._is_shut_down or key in self._waiting:
            return
        if key in self._cooldown_until:
            self._delay(key, self._cooldown_until[key])
            return
        self.num_adds += 1
        self._waiting[key] = self._clock()
        if key not in self._handled:
            self._ready.append(key)
        self._changed.notify()

    def _rest(self, key: K, until: float) -> None:
        self._cooldown_until.pop(key, None)
        self._cooldown_until[key] = until
        if self._waiting.pop(key, None) is not None:
            self._delay(key, until)

    def _delay(self, key: K, due_at: float) -> None:
        if due_at < self._due_at.get(key, float("inf")):
            self._due_at[key] = due_at
            self._sequence += 1  # keys need not be comparable
            heapq.heappush(self._delayed, (due_at, self._sequence, key))
            # All who wait must know: the one that was told may be busy with another key by then.
            self._changed.notify_all()

    def _take(self) -> K | None:
        self._wake_due()
        if self._is_shut_down or not self._ready:
            return None
        key = self._ready.popleft()
        del self._waiting[key]
        self._handled[key] = self._clock()
        return key

    def _wake_due(self) -> None:
        now = self._clock()
        while self._cooldown_until and (first := next(iter(self._cooldown_until.items())))[1] <= now:
            del self._cooldown_until[first[0]]
        while self._delayed and self._delayed[0][0] <= now:
            due_at, _, key = heapq.heappop(self._delayed)
            if self._due_at.get(key) == due_at:
                del self._due_at[key]
                self._add(key)

    def _seconds_since(self, began: dict[K, float]) -> float:
        now = self._clock()
        return now - min(began.values(), default=now)

    def _seconds_to_next(self) -> float | None:
        return max(0.0, self._delayed[0][0] - self._clock()) if self._delayed else None
