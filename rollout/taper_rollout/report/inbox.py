"""A bounded queue of a run's events, from which the driver drains them: the actor that all processes post to.

Many post and one drains. Of `StageProgress` only the newest of each replica is kept, as it
replaces the one before. Of all other events the oldest are dropped when the queue is full, and the next
drain reports how many.
"""

from __future__ import annotations

import collections
import threading

from taper_rollout.events import Event, EventsLost, StageProgress, StageRecord

MAX_EVENTS = 10_000


class Inbox:
    """See the module's docstring."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._events: collections.deque[Event] = collections.deque(maxlen=max_events)
        self._progress: dict[int, StageProgress] = {}
        self._num_lost = 0
        self._lock = threading.Lock()

    def post(self, event: Event) -> None:
        """Keep an event until the next drain."""
        with self._lock:
            if isinstance(event, StageProgress):
                self._progress[event.replica] = event
                return
            if isinstance(event, StageRecord):
                self._progress.pop(event.replica, None)
            if len(self._events) == self._events.maxlen:
                self._num_lost += 1
            self._events.append(event)

    def drain(self) -> list[Event]:
        """The events since the last drain, oldest first, then the newest progress of each replica.

        Begins with `EventsLost` if events were lost.
        """
        with self._lock:
            events: list[Event] = [*self._events, *self._progress.values()]
            if self._num_lost:
                events.insert(0, EventsLost(count=self._num_lost))
            self._events.clear()
            self._progress.clear()
            self._num_lost = 0
        return events
