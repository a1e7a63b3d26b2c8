"""The stacks of one rank as the agent sees them: serve, offer, transfer, commit, obey."""

from __future__ import annotations

import importlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from taper_policy.layout import group_of
from taper_policy.profile.kv_choice import prefilled_tokens
from taper_rollout.sglang import handoff, kv_arena, kv_exchange, random_state, weight_views
from taper_rollout.sglang.stacks import BuiltStack, dispatch_loop
from taper_rollout.shared_memory.rank_record import RecordWriter, Step, request_number
from taper_rollout.switching.agent import Command, Offer
from taper_rollout.switching.plans import MovingRequest, SwitchPlan

StagingFactory = Callable[[SwitchPlan, torch.Tensor], kv_exchange.Staging]


class RankStacks:
    """All stacks of a rank, one of them active. Implements `agent.SwitchableStacks`."""

    def __init__(
        self,
        *,
        rank: int,
        footprint: int,
        stacks: dict[int, BuiltStack],
        degree: int,
        replica_seed: int,
        record: RecordWriter,
        staging: StagingFactory,
    ) -> None:
        self.rank, self.footprint, self.degree = rank, footprint, degree
        self._stacks, self._seed, self._record, self._staging = stacks, replica_seed, record, staging
        self.base = stacks[min(stacks)]
        self.num_kv_heads: int = self.base.runner.model_config.get_total_num_kv_heads()
        self.command: Command | None = None
        self._epoch = 0
        self._last_step_at: float | None = None
        self._last_decode_at = time.perf_counter()
        self._decoded = self._prefilled = self._finished = 0
        self._readmitting: dict[str, int] = {}
        self._resumed: dict[str, Any] | None = None
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
        self.command = None
        while True:
            dispatch_loop(self.active)
            if (command := self._taken()) is not None:
                return command

    def _taken(self) -> Command | None:
        return self.command

    def receive(self, command: Command) -> None:
        self.command = command

    def on_step(self, batch: Any, result: Any) -> None:
        """After each forward pass: count, publish the record, and note when switched requests are back."""
        now = time.perf_counter()
        decode = batch.forward_mode.is_decode()
        new_tokens = len(batch.reqs)
        self._decoded += new_tokens
        self._finished += sum(request.finished() for request in batch.reqs)
        seconds = now - self._last_step_at if self._last_step_at is not None else 0.0
        if decode and self._last_step_at is not None:
            context = int(batch.seq_lens_sum or 0)
            self._record.step(
                Step(degree=self.degree, batch=new_tokens, context_tokens=context, seconds=seconds)
            )
        if not decode:
            self._prefilled += sum(batch.extend_lens)
            self._note_readmitted(batch, now)
        self._last_step_at = self._last_decode_at = now
        self._publish(seconds, None if decode else batch)

    def on_idle(self) -> None:
        if self._last_step_at is not None:
            self._last_step_at = None
            self._publish(0.0)

    def _publish(self, step_seconds: float, extended: Any = None) -> None:
        scheduler = self.active.scheduler
        running = [request for request in scheduler.running_batch.reqs if not request.finished()]
        if extended is not None:
            running += [request for request in extended.reqs if not request.finished()]
        live = [(request_number(request.rid), len(request.output_ids)) for request in running]
        self._record.write(
            epoch=self._epoch,
            degree=self.degree,
            running=len(running),
            waiting=len(scheduler.waiting_queue),
            live=live,
            longest_tokens=max((decoded for _, decoded in live), default=0),
            decoded_tokens_total=self._decoded,
            prefilled_tokens_total=self._prefilled,
            finished_total=self._finished,
            step_seconds=step_seconds,
        )

    def _note_readmitted(self, batch: Any, now: float) -> None:
        if not self._readmitting:
            return
        for request, prefilled in zip(batch.reqs, batch.extend_lens, strict=True):
            if self._readmitting.pop(request.rid, None) is not None and self._resumed is not None:
                self._resumed["prefilled_tokens"] += int(prefilled)
        self._note_resumed(now)

    def _note_resumed(self, now: float) -> None:
        if not self._readmitting and self._resumed is not None and "last_step_at" in self._resumed:
            self._resumed["pause_seconds"] = now - self._resumed.pop("last_step_at")

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
            MovingRequest(
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
        began = time.perf_counter()
        _synchronize()
        mine, self._target_degree = group_of(self.rank, plan.to_degree), plan.to_degree
        with self.active.active() as old:
            own = {request.rid: request for request in handoff.live_requests(old)}
            old_slots = [handoff.kv_slots(old, own[r.id]) for r in plan.migrated if r.id in own]
            self._drained = handoff.drain(old)
            old_layers = _layers(old)
        drained = time.perf_counter()
        wanted = [r for r in plan.requests if plan.target_group[r.id] == mine]
        leaders = {r.group * plan.from_degree for r in wanted if r.id not in own}
        foreign = {q.rid: q for leader in leaders for q in handoff.unpack(offers[leader].packed)}
        self._kept = [own.get(r.id) or foreign[r.id] for r in wanted]
        unpacked = time.perf_counter()
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
        moved = time.perf_counter()
        return {"drain": drained - began, "requests": unpacked - drained, "kv": moved - unpacked}

    @torch.inference_mode()
    def commit(self, plan: SwitchPlan, epoch: int, began: float) -> dict[str, Any]:
        """Make the new layout the active one and admit the requests there.

        Those that migrated go first: prefills of the others must not push out what they left in the cache.
        """
        started = time.perf_counter()
        figures = self._state_figures(plan)
        self._kept.sort(key=lambda request: request.rid not in self._new_slots)
        group_before = group_of(self.rank, plan.from_degree)
        self.degree, self._epoch = plan.to_degree, epoch
        with self.active.active() as new:
            for request in self._kept:
                if request.rid in self._new_slots:
                    handoff.remember(new, request, self._new_slots[request.rid])
                handoff.admit(new, request)
        started_requests = {r.id for r in plan.requests if r.num_tokens}
        self._readmitting = {q.rid: 1 for q in self._kept if q.rid in started_requests}
        # A rank that had nothing to decode before the switch pauses nobody until all have stopped: `began`.
        decoded = any(r.num_tokens and r.group == group_before for r in plan.requests)
        self._resumed = {"last_step_at": self._last_decode_at if decoded else began, "prefilled_tokens": 0}
        if not self._readmitting:
            self._resumed = {"pause_seconds": time.perf_counter() - began, "prefilled_tokens": 0}
        self._kept, self._drained, self._new_slots = [], [], {}
        self._last_step_at = None
        random_state.install(random_state.group_seed(self._seed, epoch, group_of(self.rank, plan.to_degree)))
        self._publish(0.0)
        element_bytes = self.base.runner.token_to_kv_pool.k_buffer[0].element_size()
        per_token_head = 2 * len(_layers(self.base.scheduler)) * self._head_dim * element_bytes
        return figures | {
            "moved_bytes": plan.moved_tokens_heads * per_token_head,
            "live_requests": len(plan.requests),
            "live_tokens": sum(r.num_tokens for r in plan.requests),
            "requests": [[r.id, r.group, r.num_tokens, plan.target_group[r.id]] for r in plan.requests]
            if self.rank == 0
            else [],
            "commit_seconds": time.perf_counter() - started,
            "blocked_seconds": time.perf_counter() - began,
        }

    def _state_figures(self, plan: SwitchPlan) -> dict[str, int]:
        """What became of the KV of this rank's new group; what found no room is recomputed too."""
        group = group_of(self.rank, plan.to_degree)
        held = [request for request in plan.held if request.group == group]
        left_behind = {request.id for request in held} - self._new_slots.keys()
        migrated_tokens = sum(request.num_tokens for request in held if request.id not in left_behind)
        return {
            "migrated_requests": len(held) - len(left_behind),
            "migrated_tokens": migrated_tokens,
            "recomputed_requests": len(left_behind),
            "recomputed_tokens": prefilled_tokens(held, left_behind).get(group, 0),
        }

    @torch.inference_mode()
    def recover(self) -> None:
        """After a cancelled transfer: the drained requests go on in the old layout, from their token ids."""
        with self._stacks[self._target_degree].active() as new:
            handoff.drain(new)
        with self.active.active() as old:
            for request in self._drained:
                handoff.admit(old, request)
        self._kept, self._drained, self._new_slots = [], [], {}

    @property
    def _head_dim(self) -> int:
        return int(self.base.runner.token_to_kv_pool.k_buffer[0].shape[-1])

    # -- other commands ----------------------------------------------------------------

    def obey(self, command: Command) -> dict[str, Any]:
        """Run a command that does not change the layout. Raises KeyError for an unknown one."""
        orders: dict[str, Callable[..., dict[str, Any]]] = {
            "flush": self.flush,
            "sleep": self.sleep,
            "wake": self.wake,
            "update_weights": self.update_weights,
            "resumed": self.resumed,
            "inspect": self.inspect,
        }
        with torch.inference_mode():
            return orders[command.name](**command.arguments)

    def flush(self) -> dict[str, Any]:
        """Drop the prefix caches of all stacks."""
        for built in self._stacks.values():
            with built.active() as scheduler:
                handoff.flush(scheduler)
        return {}

    def resumed(self) -> dict[str, Any]:
        """How the last switch went for the requests that lived through it; empty while some still wait."""
        live = {request.rid for request in handoff.live_requests(self.active.scheduler)}
        for rid in self._readmitting.keys() - live:  # aborted before they were back
            del self._readmitting[rid]
        self._note_resumed(time.perf_counter())
        return dict(self._resumed or {}) if not self._readmitting else {}

    def update_weights(
        self, *, source: str, arguments: list[dict[str, Any]], version: int | None
    ) -> dict[str, Any]:
        """Load new weights into the base stack, bucket by bucket; every wide stack is a view of it.

        `source` ("module:function") yields lists of (name, full tensor) in this process.
        Afterwards the prefix caches of all stacks are dropped. Raises RuntimeError where
        SGLang refuses a bucket or a parameter changed its storage.
        """
        module, _, function = source.partition(":")
        buckets: Iterator[list[tuple[str, torch.Tensor]]] = getattr(
            importlib.import_module(module), function
        )(arguments[self.rank])
        model, received = self.base.runner.model, 0
        before = {name: p.data_ptr() for name, p in model.named_parameters()}
        with self.base.active():
            updater = self.base.runner.weight_updater
            updater.begin_weight_update()
            for bucket in buckets:
                ok, message = updater.update_weights_from_tensor(named_tensors=bucket, load_format=None)
                if not ok:
                    raise RuntimeError(f"SGLang refused weights: {message}")
                received += sum(tensor.nbytes for _, tensor in bucket)
            updater.end_weight_update(run_post_load=False)
        moved = [name for name, p in model.named_parameters() if p.data_ptr() != before[name]]
        if moved:
            raise RuntimeError(f"weights changed their storage, so wide stacks are stale: {moved[:3]}")
        self.flush()
        return {"received_bytes": received, "version": version}

    def sleep(self, *, tags: list[str]) -> dict[str, Any]:
        """Release memory. The stacks must be idle; see `memory_saver` for what each tag frees."""
        from taper_rollout.sglang import memory_saver

        for built in self._stacks.values():
            if handoff.live_requests(built.scheduler):
                raise RuntimeError("cannot sleep with live requests: abort them first")
        self.flush()
        return {"released_bytes": memory_saver.release(self._stacks, self.base, tags)}

    def wake(self, *, tags: list[str]) -> dict[str, Any]:
        from taper_rollout.sglang import memory_saver

        memory_saver.restore(self._stacks, self.base, tags)
        return {}

    def inspect(self) -> dict[str, Any]:
        """Facts that tests and benchmarks assert: memory, sharing, random state."""
        pools = [built.runner.token_to_kv_pool for built in self._stacks.values()]
        base_model = self.base.runner.model
        with open("/proc/self/statm") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {
            "pid": os.getpid(),
            "degree": self.degree,
            "resident_bytes": resident,
            "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "arena_bytes": kv_arena.storage_bytes(pools[0]),
            "all_pools_bytes": kv_arena.storage_bytes(*pools),
            "weight_bytes": sum(p.nbytes for p in base_model.parameters()),
            "private_weight_bytes": {
                str(degree): weight_views.private_bytes(built.runner.model, base_model)
                for degree, built in self._stacks.items()
                if built is not self.base
            },
            "next_random": float(torch.rand(1, generator=_clone_generator())),
        }


def _synchronize() -> None:
    """The stacks compute on streams of their own; KV may be read and written only when they are done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _clone_generator() -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    return generator


def _layers(scheduler: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
    return list(zip(pool.k_buffer, pool.v_buffer, strict=True))
