"""The protocol of a switch: its states, as a table of data.

    SERVING -proposed-> PREPARED -all agreed-> QUIESCED -plan matched-> TRANSFERRING -all done-> COMMITTED
       ^                   |                      |                          |                    |  |
       |                   +-----------------> ABORTED <---------------------+--------------------+  |
       |                                          |                                                  |
       +---- resumed, in the old layout ----------+         in the new layout: resumed, timeout -----+

Each rank applies every event where it happens (`rank_switch`, `rank_protocol`) and
publishes it; the replica's state follows from its ranks' (`replica_protocol`).

| state | a rank | the replica |
|---|---|---|
| SERVING | decodes | serves requests |
| PREPARED | has stopped at a step's end and offers its requests | has proposed a switch |
| QUIESCED | knows that all ranks have stopped and none refused | no rank decodes |
| TRANSFERRING | knows that all ranks made the same plan; drains the old layout and moves KV | as its ranks |
| COMMITTED | serves in the new layout; some requests of the switch do not decode again yet | as its ranks |
| ABORTED | goes back to the old layout | some rank goes back |

ABORTED before TRANSFERRING leaves everything as it was; after it, the drained requests are
recomputed from their token ids in the old layout. A fault after the plans matched cannot
be undone: the state stays ABORTED and the rank's process ends. TIMEOUT in COMMITTED ends
the switch without its pause: some of its requests still wait for room in the new layout.

Epochs number the switches. A proposal opens a newer epoch, and SERVING closes it. An event
of an older or a closed epoch is dropped; one of an epoch never opened is illegal.

One deadline bounds the whole switch, counted from the proposal. `DEADLINE_SHARES` says by
which part of it each state has to be left; time that an early state did not need is left
to the later ones.

Invariants (asserted by `tests/rollout/switching/test_states.py`):
- every (state, event) pair either is in `TRANSITIONS` or raises `IllegalTransition`;
- SERVING is reachable from every state; each state but SERVING has an entry for FAULT, and
  each that has a deadline one for TIMEOUT;
- no state's deadline is later than the switch's, nor earlier than that of the state before;
- the epoch never falls.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple


class SwitchState(enum.Enum):
    """Where a rank, or its replica, stands in a switch."""

    SERVING = "serving"
    PREPARED = "prepared"
    QUIESCED = "quiesced"
    TRANSFERRING = "transferring"
    COMMITTED = "committed"
    ABORTED = "aborted"


class SwitchEvent(enum.Enum):
    """What moves a switch from state to state."""

    PROPOSED = "proposed"
    ALL_AGREED = "all agreed"
    REFUSED = "refused"
    PLAN_MATCHED = "plan matched"
    PLAN_MISMATCHED = "plan mismatched"
    ALL_DONE = "all done"
    FAULT = "fault"
    TIMEOUT = "timeout"
    RESUMED = "resumed"


TRANSITIONS: Final[Mapping[tuple[SwitchState, SwitchEvent], SwitchState]] = MappingProxyType(
    {
        (SwitchState.SERVING, SwitchEvent.PROPOSED): SwitchState.PREPARED,
        (SwitchState.PREPARED, SwitchEvent.ALL_AGREED): SwitchState.QUIESCED,
        (SwitchState.PREPARED, SwitchEvent.REFUSED): SwitchState.ABORTED,
        (SwitchState.PREPARED, SwitchEvent.FAULT): SwitchState.ABORTED,
        (SwitchState.PREPARED, SwitchEvent.TIMEOUT): SwitchState.ABORTED,
        (SwitchState.QUIESCED, SwitchEvent.PLAN_MATCHED): SwitchState.TRANSFERRING,
        (SwitchState.QUIESCED, SwitchEvent.PLAN_MISMATCHED): SwitchState.ABORTED,
        (SwitchState.QUIESCED, SwitchEvent.FAULT): SwitchState.ABORTED,
        (SwitchState.QUIESCED, SwitchEvent.TIMEOUT): SwitchState.ABORTED,
        (SwitchState.TRANSFERRING, SwitchEvent.ALL_DONE): SwitchState.COMMITTED,
        (SwitchState.TRANSFERRING, SwitchEvent.FAULT): SwitchState.ABORTED,
        (SwitchState.TRANSFERRING, SwitchEvent.TIMEOUT): SwitchState.ABORTED,
        (SwitchState.COMMITTED, SwitchEvent.RESUMED): SwitchState.SERVING,
        (SwitchState.COMMITTED, SwitchEvent.FAULT): SwitchState.ABORTED,
        (SwitchState.COMMITTED, SwitchEvent.TIMEOUT): SwitchState.SERVING,
        (SwitchState.ABORTED, SwitchEvent.RESUMED): SwitchState.SERVING,
        (SwitchState.ABORTED, SwitchEvent.FAULT): SwitchState.ABORTED,
    }
)

# By which share of the switch's timeout, counted from the proposal, a state has to be left. Ranks
# stop at the end of a decode step or prefill, which may be long; comparing plans takes milliseconds.
DEADLINE_SHARES: Final[Mapping[SwitchState, float]] = MappingProxyType(
    {
        SwitchState.PREPARED: 0.5,
        SwitchState.QUIESCED: 0.6,
        SwitchState.TRANSFERRING: 0.9,
        SwitchState.COMMITTED: 1.0,
    }
)


class IllegalTransition(RuntimeError):
    """An event that its state does not know, or of an epoch that was never opened."""


class Transition(NamedTuple):
    """The state that was entered, by which event, and when."""

    event: SwitchEvent
    state: SwitchState
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchProtocol:
    """A place in the table: a value; `apply` gives the next one.

    `epoch` is that of the switch under way or, while SERVING, of the last one (0: none
    yet), and `transitions` are how it got here. `timeout_seconds` bounds a whole switch from
    `proposed_at`; that and every `now` are seconds of one clock that never goes back.
    """

    timeout_seconds: float
    epoch: int = 0
    state: SwitchState = SwitchState.SERVING
    proposed_at: float = 0.0
    transitions: tuple[Transition, ...] = field(default=(), compare=False)

    @property
    def cause(self) -> SwitchEvent | None:
        """The event that aborted the switch; None where nothing did."""
        for transition in self.transitions:
            if transition.state is SwitchState.ABORTED:
                return transition.event
        return None

    def apply(self, event: SwitchEvent, epoch: int, now: float) -> SwitchProtocol:
        """The protocol after `event` of the switch `epoch`; itself where that epoch is past.

        Raises IllegalTransition.
        """
        if epoch < self.epoch or (epoch == self.epoch and self.state is SwitchState.SERVING):
            return self
        if epoch > self.epoch and event is not SwitchEvent.PROPOSED:
            raise IllegalTransition(f"{event.value} for epoch {epoch}, which was never proposed")
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise IllegalTransition(f"{event.value} while {self.state.value} (epoch {self.epoch})")
        entered = Transition(event, state, now)
        if event is SwitchEvent.PROPOSED:
            return replace(self, epoch=epoch, state=state, proposed_at=now, transitions=(entered,))
        return replace(self, state=state, transitions=(*self.transitions, entered))

    def remaining_seconds(self, now: float) -> float | None:
        """How much longer, at least 0, the present state may last; None where it has no deadline."""
        share = DEADLINE_SHARES.get(self.state)
        return None if share is None else max(0.0, self.proposed_at + share * self.timeout_seconds - now)
