"""The Ray actor that collects the events of trainer, rewards and replicas for the driver."""

from __future__ import annotations

from typing import Any

from taper_rollout.report.inbox import Inbox


class Reporter:
    """An inbox for the events of other processes, which the driver drains."""

    def __init__(self) -> None:
        self._inbox = Inbox()

    def post(self, event: dict[str, Any]) -> None:
        """Keep an event in JSON form, with its `kind`."""
        self._inbox.post(event)

    def drain(self) -> list[dict[str, Any]]:
        """The events since the last drain, oldest first."""
        return self._inbox.drain()
