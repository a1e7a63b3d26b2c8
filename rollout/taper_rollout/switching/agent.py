"""The agent of one rank: takes the coordinator's commands at the loop boundary and obeys them.

It runs in the rank's process, on the scheduler's main thread, between two iterations of
the active stack. Commands reach a group's leader with its requests and are handed on
with them, so all ranks of a group meet a command in the same iteration.

A switch is agreed in meetings of all ranks (`rendezvous`): QUIESCED (everybody is at a
boundary and nobody refuses), the plan's digest is equal everywhere, TRANSFERRING done.
Up to the digest nothing has been changed and a cancelled switch leaves the old layout
as it was. After it, requests live on as token ids: what was not moved is recomputed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import time
from collections.abc import Callable
from typing import Any, Protocol

from taper_policy.layout import group_of
from taper_policy.profile.kv_choice import kv_from_json
from taper_rollout.switching.plans import MovingRequest, SwitchPlan, plan_switch
from taper_rollout.switching.rendezvous import ArbiterLost, MeetingCancelled, Rendezvous

log = logging.getLogger("taper.agent")

MEETINGS_PER_EPOCH = 4
COMMAND_METHOD = "taper_command"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An order to every rank. `arguments` is JSON-ready."""

    id: int
    name: str
    arguments: dict[str, Any]

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a rank answers to a command: `error` is None on success."""

    id: int
    rank: int
    result: dict[str, Any]
    error: str | None = None

    def encode(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a rank brings to a switch: its live requests and, from group leaders, the requests themselves."""

    refusal: str | None
    live: tuple[MovingRequest, ...]
    packed: bytes


class SwitchAborted(RuntimeError):
    """The switch did not happen; the old layout serves on and nothing was lost."""


class SwitchableStacks(Protocol):
    """What the agent needs of the rank's stacks."""

    rank: int
    footprint: int
    num_kv_heads: int
    degree: int

    def serve(self) -> Command: ...

    def offer(self, degree: int) -> Offer: ...

    def transfer(self, plan: SwitchPlan, offers: list[Offer]) -> dict[str, float]: ...

    def commit(self, plan: SwitchPlan, epoch: int, began: float) -> dict[str, Any]: ...

    def recover(self) -> None: ...

    def obey(self, command: Command) -> dict[str, Any]: ...


class Agent:
    """Serves until a `shutdown` command. `send` delivers replies to the coordinator."""

    def __init__(
        self, engine: SwitchableStacks, rendezvous: Rendezvous, send: Callable[[Reply], None]
    ) -> None:
        self._engine, self._rendezvous, self._send = engine, rendezvous, send
        self._epoch = 0
        self._ranks_may_differ = False

    def run(self) -> None:
        """Obey commands until told to stop. Faults that leave the ranks apart are raised."""
        while True:
            command = self._engine.serve()
            if command.name == "shutdown":
                self._reply(command, {})
                return
            try:
                if command.name == "switch":
                    self._reply(command, self._switch(**command.arguments))
                else:
                    self._reply(command, self._engine.obey(command))
            except SwitchAborted as aborted:
                self._reply(command, {}, str(aborted))
            except Exception as error:
                log.exception("command %s failed", command.name)
                self._reply(command, {}, f"{type(error).__name__}: {error}")
                if self._ranks_may_differ or isinstance(error, ArbiterLost):
                    raise

    def _reply(self, command: Command, result: dict[str, Any], error: str | None = None) -> None:
        self._send(Reply(id=command.id, rank=self._engine.rank, result=result, error=error))

    def _switch(self, *, epoch: int, degree: int, kv: Any, deadline_seconds: float) -> dict[str, Any]:
        engine, began = self._engine, time.perf_counter()
        if epoch <= self._epoch:
            raise SwitchAborted(f"epoch {epoch} is not newer than {self._epoch}")
        self._epoch = epoch
        parts: dict[str, float] = {}

        offer = engine.offer(degree)
        parts["offer"] = time.perf_counter() - began
        offers = [pickle.loads(raw) for raw in self._meet(epoch, 0, pickle.dumps(offer), deadline_seconds)]
        group = group_of(engine.rank, engine.degree)
        if not any(request.num_tokens and request.group == group for o in offers for request in o.live):
            # It had nothing to decode: while others finished their step it waited, and paused nobody.
            began, parts["offer"] = time.perf_counter(), 0.0
        parts["quiesce"] = time.perf_counter() - began
        refusals = [f"rank {rank}: {o.refusal}" for rank, o in enumerate(offers) if o.refusal]
        if refusals:
            raise SwitchAborted("; ".join(refusals))

        live: dict[str, MovingRequest] = {}
        for request in (request for o in offers for request in o.live):
            if live.setdefault(request.id, request) != request:
                raise SwitchAborted(f"ranks disagree about request {request.id}")
        way = kv_from_json(kv)
        plan = plan_switch(live.values(), engine.footprint, engine.degree, degree, engine.num_kv_heads, way)
        digests = self._meet(epoch, 1, plan.digest().encode(), deadline_seconds)
        if len(set(digests)) != 1:
            raise SwitchAborted("the ranks' plans differ")
        parts["agree"] = time.perf_counter() - began

        self._ranks_may_differ = True
        try:
            parts |= engine.transfer(plan, offers)
            self._meet(epoch, 2, b"", deadline_seconds)
            result = engine.commit(plan, epoch, began) | {"parts": parts}
        except MeetingCancelled as cancelled:
            engine.recover()
            self._ranks_may_differ = False
            raise SwitchAborted(f"{cancelled}; requests are recomputed in the old layout") from None
        self._ranks_may_differ = False
        return result

    def _meet(self, epoch: int, number: int, payload: bytes, deadline_seconds: float) -> list[bytes]:
        try:
            ticket = epoch * MEETINGS_PER_EPOCH + number + 1
            return self._rendezvous.meet(ticket, payload, deadline_seconds)
        except MeetingCancelled as cancelled:
            if number == 2:
                raise
            raise SwitchAborted(str(cancelled)) from None
