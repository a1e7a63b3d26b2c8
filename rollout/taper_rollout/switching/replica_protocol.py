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

from collections.abc import Sequence

from taper_rollout.shared_memory.switch_journal import SwitchJournal
from taper_rollout.switching.rank_protocol import replayed
from taper_rollout.switching.states import TRANSITIONS, SwitchEvent, SwitchProtocol, SwitchState, Transition


def followed(replica: SwitchProtocol, journals: Sequence[SwitchJournal]) -> SwitchProtocol:
    """The replica's protocol after what is new in its ranks' journals. Raises IllegalTransition."""
    ranks = [replayed(one).transitions if one.epoch == replica.epoch else () for one in journals]
    for event, _, at in _news(replica, ranks):
        replica = replica.apply(event, replica.epoch, at)
    return replica


def _news(replica: SwitchProtocol, ranks: Sequence[Sequence[Transition]]) -> Sequence[Transition]:
    if replica.state is SwitchState.SERVING:
        return ()
    if replica.state is SwitchState.ABORTED:
        return _end_of_abort(ranks)
    # The first transition is the replica's own PROPOSED.
    return _common_events(ranks)[len(replica.transitions) - 1 :]


def _common_events(ranks: Sequence[Sequence[Transition]]) -> list[Transition]:
    """The replica's events after its proposal. Each rank's first one is that it took up the switch."""
    common: list[Transition] = []
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
        common.append(last._replace(at=max(timed.at for timed in met)))
        # An event that the table does not know raises when it is applied.
        state = TRANSITIONS.get((state, last.event), state)


def _end_of_abort(ranks: Sequence[Sequence[Transition]]) -> list[Transition]:
    """RESUMED once the last event of every rank is that; a rank that has a fault never gets there."""
    last = [events[-1] for events in ranks if events]
    if len(last) == len(ranks) and all(timed.event is SwitchEvent.RESUMED for timed in last):
        return [max(last, key=lambda timed: timed.at)]
    return []
