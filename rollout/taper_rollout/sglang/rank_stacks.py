"""The stacks of one rank as the agent sees them: serve, offer, transfer, commit, obey."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from taper_policy.layout import group_of
from taper_policy.profile.kv_choice import HeldKv, prefilled_tokens
from taper_rollout.sglang import kv_exchange, random_state
from taper_rollout.sglang.live_requests import handoff
from taper_rollout.sglang.live_requests.readmission import Readmission
from taper_rollout.sglang.rank_commands import RankCommands
from taper_rollout.sglang.rank_progress import RankProgress
from taper_rollout.sglang.stacks import BuiltStack, run_until_command
from taper_rollout.switching.command import Command
from taper_rollout.switching.figures import MovedRequest, SwitchFigures
from taper_rollout.switching.plans import SwitchPlan
from taper_rollout.switching.rank_protocol import RankProtocol
from taper_rollout.switching.rank_switch import Offer

StagingFactory = Callable[[SwitchPlan, torch.Tensor], kv_exchange.Staging]


class RankStacks:
    """All stacks of a rank, one of them active. Implements `rank_switch.SwitchingStacks`."""

    def __init__(
        self,
        *,
        rank: int,
        footprint: int,
        stacks: dict[int, BuiltStack],
        degree: int,
        replica_seed: int,
        progress: RankProgress,
        protocol: RankProtocol,
        staging: StagingFactory,
    ) -> None:
        self.rank, self.footprint, self.degree = rank, footprint, degree
        self._stacks, self._seed, self._staging = stacks, replica_seed, staging
        self._progress, self._protocol = progress, protocol
        self.base = stacks[min(stacks)]
        self.num_kv_heads: int = self.base.runner.model_config.get_total_num_kv_heads()
        self._commands = RankCommands(rank, stacks, self.base)
        self._readmission = Readmission(protocol=protocol, waiting=set(), paused_at=0.0, is_over=True)
        self._target_degree = degree
        self._kept: list[Any] = []
        self._drained: list[Any] = []
        self._new_slots: dict[str, torch.Tensor] = {}
        random_state.install(random_state.group_seed(replica_seed, 0, group_of(rank, degree)))

    @property
    def active(self) -> BuiltStack:
        return self._stacks[self.degree]

    # -- serving -----------------------------------------------------------------------

    def serve(self) -> Command:
        """Run the active stack until a command arrives."""
        return run_until_command(self.active)

    def obey(self, command: Command) -> dict[str, Any] | None:
        """Run a command that does not change the layout. Raises KeyError for an unknown one."""
        return self._commands.obey(command)

    def on_step(self, batch: Any, result: Any) -> None:
        """After each forward pass: publish the record, and follow the requests of the last switch."""
        self._progress.step(self.active.scheduler, batch, degree=self.degree)
        if not self._readmission.is_over:
            self._readmission.step(batch)

    def on_idle(self) -> None:
        self._progress.idle(self.active.scheduler, degree=self.degree)

    def on_abort(self, names: list[str]) -> None:
        """Requests ended while they waited for their admission."""
        self._readmission.drop(names)

    # -- switching ---------------------------------------------------------------------

    def offer(self, degree: int) -> Offer:
        """This rank's part of a switch. Changes nothing."""
        refusal = None
        if degree not in self._stacks:
            refusal = f"degree {degree} was not built: {sorted(self._stacks)}"
        elif degree == self.degree:
            refusal = f"already at degree {degree}"
        scheduler = self.active.scheduler
        requests = handoff.live_requests(scheduler)
        if not scheduler.leads:
            return Offer(refusal=refusal, live=(), packed=b"")
        group = group_of(self.rank, self.degree)
        live = tuple(
            HeldKv(
                id=request.rid,
                group=group,
                num_tokens=handoff.kv_tokens(request),
                prompt=handoff.prompt_name(request),
                # Less where its prefill is under way.
                prompt_tokens=min(len(request.origin_input_ids), handoff.kv_tokens(request)),
            )
            for request in requests
        )
        return Offer(refusal=refusal, live=live, packed=handoff.pack(requests))

    @torch.inference_mode()
    def transfer(self, plan: SwitchPlan, offers: list[Offer]) -> dict[str, float]:
        """Drain the old stack and bring requests, and their KV, to the new one. Returns seconds by part."""
        began = time.monotonic()
        _synchronize()
        mine, self._target_degree = group_of(self.rank, plan.to_degree), plan.to_degree
        with self.active.active() as old:
            own = {request.rid: request for request in handoff.live_requests(old)}
            old_slots = [handoff.kv_slots(old, own[r.id]) for r in plan.migrated if r.id in own]
            self._drained = handoff.drain(old)
            old_layers = _layers(old)
        drained = time.monotonic()
        wanted = [r for r in plan.requests if plan.target_group[r.id] == mine]
        leaders = {r.group * plan.from_degree for r in wanted if r.id not in own}
        foreign = {q.rid: q for leader in leaders for q in handoff.unpack(offers[leader].packed)}
        self._kept = [own.get(r.id) or foreign[r.id] for r in wanted]
        unpacked = time.monotonic()
        target = self._stacks[plan.to_degree]
        self._new_slots = {}
        if plan.slices:
            with target.active() as new:
                for r in plan.migrated:
                    slots = handoff.allocate(new, r.num_tokens) if plan.target_group[r.id] == mine else None
                    if slots is not None:
                        self._new_slots[r.id] = slots
                new_layers = _layers(new)
            slots = torch.cat(old_slots) if old_slots else torch.empty(0, dtype=torch.int64)
            kv_exchange.exchange(
                self._staging(plan, old_layers[0][0]),
                kv_exchange.picks(plan, self.rank, self._new_slots),
                slots.to(old_layers[0][0].device),
                old_layers,
                new_layers,
            )
            _synchronize()
        moved = time.monotonic()
        return {"drain": drained - began, "requests": unpacked - drained, "kv": moved - unpacked}

    @torch.inference_mode()
    def commit(self, plan: SwitchPlan, began: float) -> SwitchFigures:
        """Make the new layout the active one and admit the requests there; `began`: of the rank's pause."""
        started = time.monotonic()
        figures = self._figures(plan)
        kept = self._kept
        self._admit(plan)
        random_state.install(
            random_state.group_seed(self._seed, self._protocol.epoch, group_of(self.rank, plan.to_degree))
        )
        self._progress.restart(self.active.scheduler, degree=self.degree)
        self._follow(plan, kept, began)
        now = time.monotonic()
        return dataclasses.replace(figures, commit_seconds=now - started, blocked_seconds=now - began)

    def _admit(self, plan: SwitchPlan) -> None:
        """Enter the new layout with its requests.

        Those that migrated go first: prefills of the others must not push out what they left in the cache.
        """
        self._kept.sort(key=lambda request: request.rid not in self._new_slots)
        self.degree = plan.to_degree
        with self.active.active() as new:
            for request in self._kept:
                if request.rid in self._new_slots:
                    handoff.remember(new, request, self._new_slots[request.rid])
                handoff.admit(new, request)
        self._kept, self._drained, self._new_slots = [], [], {}

    def _follow(self, plan: SwitchPlan, kept: list[Any], began: float) -> None:
        """Follow the switch's requests that had KV, while serving. Without any the rank has RESUMED."""
        started = {request.id for request in plan.requests if request.num_tokens}
        waiting = {request.rid for request in kept} & started
        group_before = group_of(self.rank, plan.from_degree)
        # A rank that had nothing to decode before the switch pauses nobody until all have stopped: `began`.
        decoded = any(request.num_tokens and request.group == group_before for request in plan.requests)
        self._readmission = Readmission(
            protocol=self._protocol,
            waiting=waiting,
            paused_at=self._progress.last_decode_at if waiting and decoded else began,
        )
        self._readmission.settle()

    def _figures(self, plan: SwitchPlan) -> SwitchFigures:
        """What happens to the KV of this rank's new group; what found no room is recomputed too."""
        group = group_of(self.rank, plan.to_degree)
        held = [request for request in plan.held if request.group == group]
        left_behind = {request.id for request in held} - self._new_slots.keys()
        moved = [
            MovedRequest(request.id, request.group, request.num_tokens, plan.target_group[request.id])
            for request in plan.requests
        ]
        return SwitchFigures(
            live_requests=len(plan.requests),
            live_tokens=sum(request.num_tokens for request in plan.requests),
            migrated_requests=len(held) - len(left_behind),
            migrated_tokens=sum(request.num_tokens for request in held if request.id not in left_behind),
            recomputed_requests=len(left_behind),
            recomputed_tokens=prefilled_tokens(held, left_behind).get(group, 0),
            moved_bytes=plan.moved_tokens_heads * self._bytes_per_token_head,
            commit_seconds=0.0,
            blocked_seconds=0.0,
            parts_seconds={},
            # One rank's list is enough: all ranks have the same plan.
            requests=tuple(moved) if self.rank == 0 else (),
        )

    @property
    def _bytes_per_token_head(self) -> int:
        """Bytes of K and V, in all layers, of one token and one head."""
        keys = self.base.runner.token_to_kv_pool.k_buffer[0]
        return 2 * len(_layers(self.base.scheduler)) * int(keys.shape[-1]) * int(keys.element_size())

    @torch.inference_mode()
    def recover(self) -> None:
        """After a cancelled transfer: the drained requests go on in the old layout, from their token ids."""
        with self._stacks[self._target_degree].active() as new:
            handoff.drain(new)
        with self.active.active() as old:
            for request in self._drained:
                handoff.admit(old, request)
        self._kept, self._drained, self._new_slots = [], [], {}


def _synchronize() -> None:
    """The stacks compute on streams of their own; KV may be read and written only when they are done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _layers(scheduler: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
    return list(zip(pool.k_buffer, pool.v_buffer, strict=True))
