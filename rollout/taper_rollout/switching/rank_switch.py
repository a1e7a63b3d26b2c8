"""One switch as a rank goes through it, event by event.

It runs in the rank's process, between two iterations of the active stack. The ranks agree
in three meetings (`rendezvous`): all have stopped and none refuses (QUIESCED), the digest
of the plan is equal everywhere (TRANSFERRING), the transfer is done (COMMITTED). Until the
digests have been compared nothing has changed, and an aborted switch leaves the old layout
as it was. After that requests live on as token ids: what was not moved is recomputed.

Invariants (asserted by `test_rank_switch.py`, `test_switch_deadline.py` and `test_agent.py`):
- a switch that ends without an exception leaves the rank COMMITTED or SERVING;
- one that ends with `SwitchAborted` leaves it SERVING in the old layout;
- all meetings of a switch end by its one deadline.
"""

from __future__ import annotations

import dataclasses
import pickle
import time
from typing import Any, Protocol

from taper_policy.layout import group_of
from taper_policy.profile.kv_choice import HeldKv, kv_from_json
from taper_rollout.switching.command import Command, SwitchOrder
from taper_rollout.switching.figures import SwitchFigures
from taper_rollout.switching.plans import SwitchPlan, plan_switch
from taper_rollout.switching.rank_protocol import RankProtocol
from taper_rollout.switching.rendezvous import ArbiterLost, MeetingCancelled, Rendezvous
from taper_rollout.switching.states import SwitchEvent, SwitchState

MEETINGS_PER_EPOCH = 4
_NUMBER_OF_MEETING = {SwitchState.PREPARED: 0, SwitchState.QUIESCED: 1, SwitchState.TRANSFERRING: 2}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a rank brings to a switch: its live requests and, from group leaders, the requests themselves."""

    refusal: str | None
    live: tuple[HeldKv, ...]
    packed: bytes


class SwitchAborted(RuntimeError):
    """The switch did not happen because of `event`; the old layout serves on and nothing was lost."""

    def __init__(self, event: SwitchEvent, reason: str) -> None:
        super().__init__(reason)
        self.event = event


class SwitchingStacks(Protocol):
    """What the agent, and a switch, need of a rank's stacks."""

    rank: int
    footprint: int
    num_kv_heads: int
    degree: int

    def serve(self) -> Command: ...

    def obey(self, command: Command) -> dict[str, Any] | None: ...

    def offer(self, degree: int) -> Offer: ...

    def transfer(self, plan: SwitchPlan, offers: list[Offer]) -> dict[str, float]: ...

    def commit(self, plan: SwitchPlan, began: float) -> SwitchFigures: ...

    def recover(self) -> None: ...


class RankSwitch:
    """See the module's docstring. One object for one switch."""

    def __init__(self, stacks: SwitchingStacks, rendezvous: Rendezvous, protocol: RankProtocol) -> None:
        self._stacks, self._rendezvous, self._protocol = stacks, rendezvous, protocol
        self._began = time.monotonic()
        self._parts: dict[str, float] = {}

    def run(self, order: SwitchOrder) -> SwitchFigures:
        """Make the switch. Raises SwitchAborted, or what failed.

        After an exception the rank is SERVING in the old layout, or ABORTED: then the ranks may
        have different layouts, and this one must end.
        """
        protocol = self._protocol
        if order.epoch <= protocol.epoch:
            raise SwitchAborted(
                SwitchEvent.REFUSED, f"epoch {order.epoch} is not newer than {protocol.epoch}"
            )
        protocol.propose(order.epoch, proposed_at=order.proposed_at, timeout_seconds=order.timeout_seconds)
        try:
            return self._through(order)
        except SwitchAborted as aborted:
            self._abort(aborted.event)
            raise
        except Exception as error:
            has_changed = protocol.state in (SwitchState.TRANSFERRING, SwitchState.COMMITTED)
            protocol.apply(SwitchEvent.FAULT)
            if not has_changed and not isinstance(error, ArbiterLost):
                protocol.apply(SwitchEvent.RESUMED)
            raise

    def _through(self, order: SwitchOrder) -> SwitchFigures:
        offers = self._agree(order.degree)
        self._protocol.apply(SwitchEvent.ALL_AGREED)
        plan = self._planned(order, offers)
        self._protocol.apply(SwitchEvent.PLAN_MATCHED)
        self._parts |= self._stacks.transfer(plan, offers)
        self._meet(b"")
        self._protocol.apply(SwitchEvent.ALL_DONE)
        figures = self._stacks.commit(plan, self._began)
        return dataclasses.replace(figures, parts_seconds=self._parts)

    def _agree(self, degree: int) -> list[Offer]:
        """Every rank's offer, in rank order."""
        offer = self._stacks.offer(degree)
        self._mark("offer")
        offers: list[Offer] = [pickle.loads(packed) for packed in self._meet(pickle.dumps(offer))]
        group = group_of(self._stacks.rank, self._stacks.degree)
        if not any(request.num_tokens and request.group == group for o in offers for request in o.live):
            # It had nothing to decode: while others finished their step it waited, and paused nobody.
            self._began, self._parts["offer"] = time.monotonic(), 0.0
        self._mark("quiesce")
        refusals = [f"rank {rank}: {o.refusal}" for rank, o in enumerate(offers) if o.refusal]
        if refusals:
            raise SwitchAborted(SwitchEvent.REFUSED, "; ".join(refusals))
        return offers

    def _planned(self, order: SwitchOrder, offers: list[Offer]) -> SwitchPlan:
        """The plan, once all ranks have made the same."""
        live: dict[str, HeldKv] = {}
        for request in (request for offer in offers for request in offer.live):
            if live.setdefault(request.id, request) != request:
                raise SwitchAborted(SwitchEvent.PLAN_MISMATCHED, f"ranks disagree about request {request.id}")
        stacks = self._stacks
        plan = plan_switch(
            live.values(),
            stacks.footprint,
            stacks.degree,
            order.degree,
            stacks.num_kv_heads,
            kv_from_json(order.kv),
        )
        if len(set(self._meet(plan.digest().encode()))) != 1:
            raise SwitchAborted(SwitchEvent.PLAN_MISMATCHED, "the ranks' plans differ")
        self._mark("agree")
        return plan

    def _meet(self, payload: bytes) -> list[bytes]:
        number = _NUMBER_OF_MEETING[self._protocol.state]
        ticket = self._protocol.epoch * MEETINGS_PER_EPOCH + number + 1
        try:
            return self._rendezvous.meet(ticket, payload, self._protocol.remaining_seconds)
        except MeetingCancelled as cancelled:
            outcome = "; requests are recomputed in the old layout" if number == 2 else ""
            raise SwitchAborted(SwitchEvent.TIMEOUT, f"{cancelled}{outcome}") from None

    def _abort(self, event: SwitchEvent) -> None:
        """Go back to the old layout. Where that fails the state stays ABORTED."""
        must_recover = self._protocol.state is SwitchState.TRANSFERRING
        self._protocol.apply(event)
        if must_recover:
            try:
                self._stacks.recover()
            except Exception:
                self._protocol.apply(SwitchEvent.FAULT)
                raise
        self._protocol.apply(SwitchEvent.RESUMED)

    def _mark(self, name: str) -> None:
        self._parts[name] = time.monotonic() - self._began
