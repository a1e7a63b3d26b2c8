"""How a switch is agreed: the states of a replica, as a table of data.

    SERVING -propose-> PREPARED -all agreed-> QUIESCED -plan matched-> TRANSFERRING -all done-> COMMITTED
       ^                  |                      |                          |                      |
       |                  +-----------------> ABORTED <--------------------+----------------------+
       +------------------- resumed ------------+   (and from COMMITTED, in the new layout)

PREPARED overlaps decoding; from QUIESCED to COMMITTED no rank decodes. ABORTED brings
the requests back: in the old layout, or, where KV or a rank is lost, by recomputing from
token ids. It is left by RESUMED only: a further fault or a missed deadline there means
that this way back failed and the next (rebuilding the engine) has to be taken.

Epochs number the switches. A proposal opens a newer epoch, RESUMED closes it. A message
of an older or a closed epoch is dropped; one of an epoch never opened is illegal.

Invariants (asserted by `tests/rollout/switching/test_states.py`):
- every (state, event) pair either is in `TRANSITIONS` or raises `IllegalTransition`;
- SERVING is reachable from every state; each other state has a deadline, and an entry
  for FAULT and for TIMEOUT;
- the deadlines on the way of a switch that succeeds add up to no more than its timeout;
- the epoch never falls.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final


class SwitchState(enum.Enum):
    """Where a replica stands with its switch."""

    SERVING = "serving"
    PREPARED = "prepared"
    QUIESCED = "quiesced"
    TRANSFERRING = "transferring"
    COMMITTED = "committed"
    ABORTED = "aborted"


class SwitchEvent(enum.Enum):
    """What the coordinator has learned from all ranks together."""

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
        (SwitchState.COMMITTED, SwitchEvent.TIMEOUT): SwitchState.ABORTED,
        (SwitchState.ABORTED, SwitchEvent.RESUMED): SwitchState.SERVING,
        (SwitchState.ABORTED, SwitchEvent.FAULT): SwitchState.ABORTED,
        (SwitchState.ABORTED, SwitchEvent.TIMEOUT): SwitchState.ABORTED,
    }
)

# What each state may use of the switch's timeout. The way back gets the whole of it
# once more: it may have to prefill every live request.
DEADLINE_SHARES: Final[Mapping[SwitchState, float]] = MappingProxyType(
    {
        SwitchState.PREPARED: 0.25,
        SwitchState.QUIESCED: 0.25,
        SwitchState.TRANSFERRING: 0.25,
        SwitchState.COMMITTED: 0.25,
        SwitchState.ABORTED: 1.0,
    }
)


class IllegalTransition(RuntimeError):
    """An event that its state does not know, or of an epoch that was never opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchProtocol:
    """A replica's place in the table: a value; `apply` gives the next one.

    `epoch` is that of the switch under way or, while SERVING, of the last one (0:
    none yet). `timeout_seconds` bounds a switch that succeeds; `entered_at` and every
    `now` are seconds of one clock that never goes back.
    """

    timeout_seconds: float
    epoch: int = 0
    state: SwitchState = SwitchState.SERVING
    entered_at: float = 0.0

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds: {self.timeout_seconds} is not above zero")

    def apply(self, event: SwitchEvent, epoch: int, now: float) -> SwitchProtocol:
        """The protocol after `event` of the switch `epoch`; itself where that epoch is past."""
        if epoch < self.epoch or (epoch == self.epoch and self.state is SwitchState.SERVING):
            return self
        if epoch > self.epoch and event is not SwitchEvent.PROPOSED:
            raise IllegalTransition(f"{event.value} for epoch {epoch}, which was never proposed")
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise IllegalTransition(f"{event.value} while {self.state.value} (epoch {self.epoch})")
        return replace(self, epoch=epoch, state=state, entered_at=now)

    @property
    def deadline_seconds(self) -> float | None:
        """How long the present state may last; None while SERVING."""
        share = DEADLINE_SHARES.get(self.state)
        return None if share is None else share * self.timeout_seconds

    def remaining_seconds(self, now: float) -> float | None:
        """What is left, at least 0, for a wait in the present state; None while SERVING."""
        limit = self.deadline_seconds
        return None if limit is None else max(0.0, self.entered_at + limit - now)

    def expired(self, now: float) -> bool:
        """Whether the present state has outlasted its deadline, so that TIMEOUT is due."""
        return self.remaining_seconds(now) == 0.0
