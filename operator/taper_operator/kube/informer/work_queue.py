"""The queue of keys to reconcile: de-duplicating, with delays and backoff.

A key is waiting, being handled, or both: a key added while it is handled is handled again afterwards. A
worker calls `done` when it is finished. Then the key has a cooldown: changes come in bursts, such as dozens
while a job's pods start. A new key has no cooldown.

Invariants (asserted by `tests/operator/kube/test_work_queue.py`):
- one worker at a time handles a key;
- after every `add` the key is handled at least once, beginning after the `add`;
- a key is queued at most once, however often it was added; keys are taken in the order of arrival;
- a delayed key is never taken early, and of several delays the shortest counts;
- between two times that a key is handled are at least `cooldown_seconds`.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from taper_operator.kube.backoff import Backoff

K = TypeVar("K")

BACKOFF = Backoff(first_seconds=0.25, cap_seconds=60.0)


@dataclass(eq=False, kw_only=True)
class WorkQueue(Generic[K]):
    """See the module's docstring. Its methods may be called from any thread.

    clock: monotonic seconds
    """

    clock: Callable[[], float] = time.monotonic
    random: Random = field(default_factory=Random)
    backoff: Backoff = BACKOFF
    cooldown_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._ready: deque[K] = deque()
        self._waiting: dict[K, float] = {}  # key -> since when, in _ready or being handled
        self._handled: dict[K, float] = {}  # key -> since when
        self._cooldown_until: dict[K, float] = {}  # in order of time
        self._due_at: dict[K, float] = {}
        self._delayed: list[tuple[float, int, K]] = []  # a heap; entries that _due_at contradicts are void
        self._sequence = 0
        self._failures: dict[K, int] = {}
        self._is_shut_down = False
        self.num_adds = 0
        self.num_retries = 0

    def add(self, key: K) -> None:
        with self._changed:
            self._add(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Queue the key after some seconds, or now if they are not positive."""
        with self._changed:
            if seconds <= 0:
                self._add(key)
            elif not self._is_shut_down:
                self._delay(key, self.clock() + seconds)

    def add_after_failure(self, key: K) -> float:
        """Queue the key after its backoff, which grows until `forget`; returns the seconds."""
        with self._changed:
            self._failures[key] = self._failures.get(key, 0) + 1
            self.num_retries += 1
            seconds = self.backoff.delay_seconds(self._failures[key], self.random)
            if not self._is_shut_down:
                self._delay(key, self.clock() + seconds)
            return seconds

    def forget(self, key: K) -> None:
        """Reset the key's backoff."""
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
        """The key is no longer handled. If it was added meanwhile, it is ready after its cooldown."""
        with self._changed:
            del self._handled[key]
            if self.cooldown_seconds > 0:
                self._cool_down(key, self.clock() + self.cooldown_seconds)
            elif key in self._waiting:
                self._ready.append(key)
            self._changed.notify_all()

    def shut_down(self) -> None:
        """Accept and return no more keys; blocked calls of `take_or_wait` return None."""
        with self._changed:
            self._is_shut_down = True
            self._changed.notify_all()

    # -- figures -----------------------------------------------------------------------

    def depth(self) -> int:
        """Number of waiting keys, without the delayed ones."""
        with self._changed:
            self._wake_due()
            return len(self._waiting)

    def oldest_wait_seconds(self) -> float:
        with self._changed:
            return self._seconds_since(self._waiting)

    def longest_handled_seconds(self) -> float:
        """The longest time for which a key has been handled: a stuck worker shows here."""
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
        self._waiting[key] = self.clock()
        if key not in self._handled:
            self._ready.append(key)
        self._changed.notify()

    def _cool_down(self, key: K, until: float) -> None:
        self._cooldown_until.pop(key, None)
        self._cooldown_until[key] = until
        if self._waiting.pop(key, None) is not None:
            self._delay(key, until)

    def _delay(self, key: K, due_at: float) -> None:
        if due_at < self._due_at.get(key, float("inf")):
            self._due_at[key] = due_at
            self._sequence += 1  # keys need not be comparable
            heapq.heappush(self._delayed, (due_at, self._sequence, key))
            # Wake all waiters: a single one may be busy with another key by then.
            self._changed.notify_all()

    def _take(self) -> K | None:
        self._wake_due()
        if self._is_shut_down or not self._ready:
            return None
        key = self._ready.popleft()
        del self._waiting[key]
        self._handled[key] = self.clock()
        return key

    def _wake_due(self) -> None:
        now = self.clock()
        while self._cooldown_until and (first := next(iter(self._cooldown_until.items())))[1] <= now:
            del self._cooldown_until[first[0]]
        while self._delayed and self._delayed[0][0] <= now:
            due_at, _, key = heapq.heappop(self._delayed)
            if self._due_at.get(key) == due_at:
                del self._due_at[key]
                self._add(key)

    def _seconds_since(self, began: dict[K, float]) -> float:
        now = self.clock()
        return now - min(began.values(), default=now)

    def _seconds_to_next(self) -> float | None:
        return max(0.0, self._delayed[0][0] - self.clock()) if self._delayed else None
