"""A bounded queue of a run's events, from which the driver drains them.

Many threads post and one drains. Of `StageProgress` only the newest of each replica is kept, as it
replaces the one before. Of all other events the oldest are dropped when the queue is full, and the next
drain reports how many.
"""

from __future__ import annotations

import collections
import threading
from typing import Any

MAX_EVENTS = 10_000


class Inbox:
    """See the module's docstring. Events are in JSON form, each with its `kind`."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._events: collections.deque[dict[str, Any]] = collections.deque(maxlen=max_events)
        self._progress: dict[int, dict[str, Any]] = {}
        self._num_lost = 0
        self._lock = threading.Lock()

    def post(self, event: dict[str, Any]) -> None:
        """Keep an event until the next drain."""
        with self._lock:
            if event["kind"] == "StageProgress":
                self._progress[event["replica"]] = event
                return
            if event["kind"] == "StageRecord":
                self._progress.pop(event["replica"], None)
            if len(self._events) == self._events.maxlen:
                self._num_lost += 1
            self._events.append(event)

    def drain(self) -> list[dict[str, Any]]:
        """The events since the last drain, oldest first, then the newest progress of each replica.

        Begins with `{"kind": "EventsLost", "count": n}` if events were lost.
        """
        with self._lock:
            events = [*self._events, *self._progress.values()]
            if self._num_lost:
                events.insert(0, {"kind": "EventsLost", "count": self._num_lost})
            self._events.clear()
            self._progress.clear()
            self._num_lost = 0
        return events
