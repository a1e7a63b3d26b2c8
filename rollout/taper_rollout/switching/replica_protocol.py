"""The replica's place in the protocol, which follows from the journals of its ranks. Pure.

The coordinator itself applies PROPOSED. After that:
- an event happens to the replica when it has happened on every rank, at the time of the last;
- a way back (refusal, mismatch, fault, timeout) happens as soon as it has on one rank, and
  its cause is the earliest of the ranks' causes: the others time out because of it;
- the replica serves again when every rank does.

A rank's journal holds the whole switch, so no state is missed however seldom the journals
are read. A rank whose journal still shows an earlier epoch has not taken up the switch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from taper_rollout.shared_memory.switch_journal import SwitchJournal
from taper_rollout.switching.rank_protocol import TimedEvent, timed_events
from taper_rollout.switching.states import TRANSITIONS, SwitchEvent, SwitchProtocol, SwitchState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A state that a replica entered, by which event, and when (monotonic seconds)."""

    event: SwitchEvent
    state: SwitchState
    at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaProtocol:
    """A replica's switch so far: a value; `propose`, `follow` and `apply` give the next one."""

    protocol: SwitchProtocol
    transitions: tuple[Transition, ...] = ()

    @property
    def state(self) -> SwitchState:
        return self.protocol.state

    @property
    def epoch(self) -> int:
        return self.protocol.epoch

    @property
    def cause(self) -> SwitchEvent | None:
        """The event that aborted the last switch; None where nothing did."""
        for transition in self.transitions:
            if transition.state is SwitchState.ABORTED:
                return transition.event
        return None

    def propose(self, now: float) -> ReplicaProtocol:
        """Open the next epoch. Raises IllegalTransition while a switch is under way."""
        begun = dataclasses.replace(self, transitions=())
        return begun._applied(SwitchEvent.PROPOSED, self.epoch + 1, now)

    def apply(self, event: SwitchEvent, now: float) -> ReplicaProtocol:
        """Something happened that no rank can report: the engine died, or the deadline passed."""
        return self._applied(event, self.epoch, now)

    def follow(self, journals: Sequence[SwitchJournal]) -> ReplicaProtocol:
        """Apply what is new in the ranks' journals. Raises IllegalTransition."""
        ranks = [timed_events(journal) if journal.epoch == self.epoch else () for journal in journals]
        followed = self
        for timed in self._news(ranks):
            followed = followed._applied(timed.event, self.epoch, timed.at)
        return followed

    def _news(self, ranks: Sequence[Sequence[TimedEvent]]) -> Sequence[TimedEvent]:
        if self.state is SwitchState.SERVING:
            return ()
        if self.state is SwitchState.ABORTED:
            return _end_of_abort(ranks)
        # The first transition is the replica's own PROPOSED.
        return _common_events(ranks)[len(self.transitions) - 1 :]

    def _applied(self, event: SwitchEvent, epoch: int, now: float) -> ReplicaProtocol:
        protocol = self.protocol.apply(event, epoch, now)
        if protocol is self.protocol:
            return self
        transition = Transition(event=event, state=protocol.state, at=now)
        return ReplicaProtocol(protocol=protocol, transitions=(*self.transitions, transition))


def _common_events(ranks: Sequence[Sequence[TimedEvent]]) -> list[TimedEvent]:
    """The replica's events after its proposal. Each rank's first one is that it took up the switch."""
    common: list[TimedEvent] = []
    state = SwitchState.PREPARED
    number = 0
    while True:
        number += 1
        met = [events[number] for events in ranks if len(events) > number]
        aborting = [timed for timed in met if TRANSITIONS.get((state, timed.event)) is SwitchState.ABORTED]
        if aborting:
            cause = min(aborting, key=lambda timed: timed.at)
            return [*common, cause, *_end_of_abort(ranks)]
        if not met or len(met) < len(ranks):
            return common
        last = max(met, key=lambda timed: (timed.event is SwitchEvent.TIMEOUT, timed.at))
        common.append(TimedEvent(event=last.event, at=max(timed.at for timed in met)))
        # An event that the table does not know raises when it is applied.
        state = TRANSITIONS.get((state, last.event), state)


def _end_of_abort(ranks: Sequence[Sequence[TimedEvent]]) -> list[TimedEvent]:
    """RESUMED once the last event of every rank is that; a rank that has a fault never gets there."""
    last = [events[-1] for events in ranks if events]
    if len(last) == len(ranks) and all(timed.event is SwitchEvent.RESUMED for timed in last):
        return [TimedEvent(event=SwitchEvent.RESUMED, at=max(timed.at for timed in last))]
    return []
