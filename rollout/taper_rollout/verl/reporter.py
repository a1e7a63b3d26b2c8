"""The run's Ray actor that gathers what trainer, rewards and replicas tell."""

from __future__ import annotations

from typing import Any

from taper_rollout.report.inbox import Inbox


class Reporter:
    """An inbox that other processes can post to. Posts are kept until the driver drains them."""

    def __init__(self) -> None:
        self._inbox = Inbox()

    def post(self, event: dict[str, Any]) -> None:
        """Keep an event in JSON form, with its `kind`."""
        self._inbox.post(event)

    def drain(self) -> list[dict[str, Any]]:
        """The events since the last drain, oldest first."""
        return self._inbox.drain()
