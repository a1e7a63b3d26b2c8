"""A rank's place in the protocol, published in shared memory with each event.

The rank applies an event where it happens; the event and its time go into the rank's
journal (`shared_memory.switch_journal`), which the coordinator reads without asking.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from taper_rollout.shared_memory.switch_journal import JournalWriter, SwitchJournal
from taper_rollout.switching.states import SwitchEvent, SwitchProtocol, SwitchState

EVENTS = tuple(SwitchEvent)
_CODES = {event: code for code, event in enumerate(EVENTS)}


def replayed(journal: SwitchJournal) -> SwitchProtocol:
    """The protocol that a rank's journal leads to, but for its deadline. Raises IllegalTransition."""
    protocol = SwitchProtocol(timeout_seconds=1.0)
    for code, at in journal.events:
        protocol = protocol.apply(EVENTS[code], journal.epoch, at)
    return protocol


class RankProtocol:
    """See the module's docstring. `clock` is the machine's monotonic clock."""

    def __init__(self, journal: JournalWriter, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal, self._clock = journal, clock
        self._protocol = SwitchProtocol(timeout_seconds=1.0)

    @property
    def state(self) -> SwitchState:
        return self._protocol.state

    @property
    def epoch(self) -> int:
        """Of the switch under way, or of the last one."""
        return self._protocol.epoch

    @property
    def remaining_seconds(self) -> float:
        """How much longer the rank may wait in the present state. For states that have a deadline."""
        remaining = self._protocol.remaining_seconds(self._clock())
        assert remaining is not None
        return remaining

    def propose(self, epoch: int, *, proposed_at: float, timeout_seconds: float) -> None:
        """Take up a switch that was proposed at `proposed_at`. `epoch` must be newer than any before."""
        self.expire()
        protocol = dataclasses.replace(self._protocol, timeout_seconds=timeout_seconds)
        self._enter(protocol.apply(SwitchEvent.PROPOSED, epoch, proposed_at))

    def apply(self, event: SwitchEvent) -> None:
        """Something happened in the switch under way. Raises IllegalTransition."""
        self._enter(self._protocol.apply(event, self.epoch, self._clock()))

    def resume(self, *, paused_at: float, prefilled_tokens: int) -> None:
        """All requests of the committed switch decode again, or were aborted."""
        now = self._clock()
        resumption = {"paused_at": paused_at, "resumed_at": now, "prefilled_tokens": prefilled_tokens}
        self._enter(self._protocol.apply(SwitchEvent.RESUMED, self.epoch, now), **resumption)

    def expire(self) -> bool:
        """End a committed switch whose deadline has passed while requests still wait; whether it did."""
        expired = self.state is SwitchState.COMMITTED and self.remaining_seconds == 0.0
        if expired:
            self.apply(SwitchEvent.TIMEOUT)
        return expired

    def _enter(self, protocol: SwitchProtocol, **resumption: Any) -> None:
        if protocol is not self._protocol:
            self._protocol = protocol
            events = tuple((_CODES[event], at) for event, _, at in protocol.transitions)
            self._journal.write(SwitchJournal(epoch=protocol.epoch, events=events, **resumption))
