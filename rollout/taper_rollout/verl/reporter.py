"""The Ray actor that collects the events of trainer, rewards and replicas for the driver."""

from __future__ import annotations

from taper_rollout.events import Event
from taper_rollout.report.inbox import Inbox


class Reporter:
    """An inbox for the events of other processes, which the driver drains."""

    def __init__(self) -> None:
        self._inbox = Inbox()

    def post(self, event: Event) -> None:
        """Keep an event until the next drain."""
        self._inbox.post(event)

    def drain(self) -> list[Event]:
        """The events since the last drain, oldest first."""
        return self._inbox.drain()
