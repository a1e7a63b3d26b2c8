"""The coordinator of one replica: serves requests, watches the running batch, switches the layout.

One for each VeRL replica, in the replica's server actor. VeRL sees one server; groups,
layouts and switches are hidden behind `generate`. A *stage* begins with the first request
after the replica was idle and ends when VeRL takes the replica back (sleep, new weights,
a new step). The layout returns to the base one when a stage has drained.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from taper_policy.decision.correction import Correction
from taper_policy.decision.decision import Decision
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.profile.profile import Profile
from taper_rollout.profiling.calibration import calibrate
from taper_rollout.profiling.replica_settings import ReplicaSettings, engine_settings
from taper_rollout.replica.decider import Decider, PolicyDecider
from taper_rollout.replica.events import BatchSample, SwitchDone
from taper_rollout.replica.response import Generated, generated
from taper_rollout.replica.stage import Stage, prompt_digest, request_seed
from taper_rollout.replica.stage_review import StageReviewer
from taper_rollout.replica.status_server import StatusServer
from taper_rollout.replica.step_learner import StepLearner
from taper_rollout.replica.switcher import Switcher
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.shared_memory.rank_record import RankRecord, boundary_seconds, new_group_steps

__all__ = ["Coordinator", "Generated", "ReplicaSettings"]

log = logging.getLogger("taper.coordinator")

POLL_SECONDS = 0.005
DRAINED_SECONDS = 0.05
# VeRL sends a stage's requests one by one; a rule that waits for the tail must not take the start for it.
ARRIVALS_SETTLED_SECONDS = 0.5
FIRST_ORDER_SECONDS = 0.01
ATTEMPTS_PER_STAGE = 32
FAILED_ATTEMPTS_PER_STAGE = 3
ABORT_TIMEOUT_SECONDS = 60.0
WEIGHTS_TIMEOUT_SECONDS = 1800.0


class Coordinator:
    """See the module's docstring. All methods are for one asyncio loop.

    `decisions` may be replaced between two stages: benchmarks compare policies on one engine.
    """

    def __init__(self, settings: ReplicaSettings, emit: Callable[[Any], None]) -> None:
        self._settings, self._emit = settings, emit
        self.decisions: Decider = PolicyDecider(settings, emit)
        self._reviewer = StageReviewer(settings)
        self._engine = ElasticEngine(engine_settings(settings))
        self._switcher = Switcher(self._engine, settings)
        self._learner = StepLearner(footprint=settings.rollout.footprint, replica=settings.replica)
        self._step = 0
        self._stage: Stage | None = None
        self._outstanding = 0
        self._last_arrival_at = self._last_end_at = 0.0
        # From a look at the records to the order to switch, as it was the last time: deciding takes its time.
        self._order_seconds = FIRST_ORDER_SECONDS
        self._awake = asyncio.Event()
        self._awake.set()
        self._open = asyncio.Event()
        self._open.set()
        self._rejecting = False
        self._watcher: asyncio.Task[None] | None = None
        self._status = StatusServer(self._describe)

    # -- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engine and the status server, and learn how fast each layout is."""
        await self._engine.start()
        try:
            await self._status.start(self._settings.host, self._settings.port)
            await self._calibrate()
            self._watcher = asyncio.create_task(self._watch())
        except BaseException:
            await self.close()
            raise

    async def _calibrate(self) -> None:
        """Learn, or measure, how fast the engine is."""
        found = await calibrate(self._engine, self._switcher.change_layout, self._settings)
        if found.event is not None:
            self._emit(found.event)
        self.use(found.profile)

    def use(self, profile: Profile | None) -> None:
        """Decide, and choose what becomes of the KV cache, by `profile`."""
        self._switcher.use(profile)
        self.decisions.use(profile)
        self._reviewer.use(profile)
        self._learner.use(profile)

    @property
    def profile(self) -> Profile | None:
        """What it decides by."""
        return self._switcher.profile

    @property
    def correction(self) -> Correction:
        """What its stages have shown of the profile."""
        return self._learner.correction

    async def close(self) -> None:
        """End the ranks; nothing of the replica is left. A stage that is broken off is not told."""
        if self._watcher is not None:
            self._watcher.cancel()
        if not self._outstanding:
            self._finish_stage()
        await self._status.close()
        await self._engine.close()

    def records(self) -> list[RankRecord]:
        """The state of each rank after its last step."""
        return [reader.read() for reader in self._engine.records]

    def address(self) -> tuple[str, int]:
        """Host and port where `GET /health` and `GET /state` answer."""
        return self._status.address

    def _describe(self) -> dict[str, Any]:
        return {
            "healthy": self._engine.fault is None,
            "fault": self._engine.fault,
            "replica": self._settings.replica,
            "degree": self._engine.degree,
            "state": self._switcher.state.value,
            "epoch": self._switcher.epoch,
            "step": self._step,
            "outstanding": self._outstanding,
            "asleep": not self._awake.is_set(),
        }

    # -- requests ----------------------------------------------------------------------

    async def generate(
        self, *, request_id: str, prompt_ids: list[int], sampling: dict[str, Any], logprobs: bool
    ) -> Generated:
        """Serve one request to its end, whatever happens to the layout meanwhile.

        Waits while the replica sleeps; answers "aborted" with nothing while it rejects.
        Raises EngineDied when the engine is lost.
        """
        if self._rejecting:
            return Generated(
                token_ids=[], log_probs=[] if logprobs else None, stop_reason="aborted", num_preempted=0
            )
        await self._open.wait()
        await self._awake.wait()
        stage = self._stage or await self._begin_stage()
        digest, number = prompt_digest(prompt_ids), self._engine.next_number()
        sample = stage.next_sample(digest)
        if self._settings.rollout.sampling.seed is not None and "sampling_seed" not in sampling:
            seed = request_seed(self._settings.rollout.sampling.seed, self._step, digest, sample)
            sampling = sampling | {"sampling_seed": seed}
        self._outstanding += 1
        self._last_arrival_at = time.monotonic()
        started_at = time.time()
        output: dict[str, Any] = {}
        stage.begin_request(number, prompt=digest, prompt_tokens=len(prompt_ids))
        try:
            output = await self._engine.generate(
                prompt_ids, sampling, request_id=request_id, number=number, logprobs=logprobs
            )
        finally:
            stage.end_request(number)
            self._outstanding -= 1
            self._last_end_at = time.monotonic()
        made = generated(output, logprobs)
        stage.add_request(
            engine_id=output["meta_info"]["id"],
            request_id=request_id,
            prompt=digest,
            sample=sample,
            prompt_tokens=len(prompt_ids),
            response_tokens=len(made.token_ids),
            started_at=started_at,
            finish_reason=made.stop_reason,
            group=output.get("group"),
        )
        if made.stop_reason != "aborted" and made.token_ids and stage is self._stage:
            self.decisions.add_finished(digest, len(made.token_ids))
        return made

    async def _begin_stage(self) -> Stage:
        """A new stage, in the layout that it is to begin in. Its requests wait for that in the router."""
        self.decisions.start_stage(self._step, self._learner.correction)
        first = self.decisions.first_degree()
        stage = self._stage = Stage(self._settings.rollout.footprint, first)
        stage.correction = self._learner.correction
        if first != self._engine.degree and not self._outstanding:
            await self._switch(None, Decision(degree=first, reason="a stage begins"))
            stage.open(self._engine.degree)
        stage.count_prefills([record.prefilled_tokens_total for record in self.records()])
        new_group_steps(self._engine.records)  # of what came before it: a profile, the end of another stage
        return stage

    async def abort_all(self, *, reject: bool = False) -> None:
        """End all live requests with what they have; hold new ones, or reject them, until resumed.

        Also in the middle of a switch: the order follows the requests into the new layout.
        Raises TimeoutError when a request does not end.
        """
        self._open.clear()
        self._rejecting = reject
        self._engine.abort_all()
        deadline = time.monotonic() + ABORT_TIMEOUT_SECONDS
        while self._outstanding:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._outstanding} requests did not end after an abort")
            await asyncio.sleep(POLL_SECONDS)
            self._engine.abort_all()
        await self._end_stage()

    async def resume_generation(self) -> None:
        self._rejecting = False
        self._open.set()

    # -- what VeRL does to a server -----------------------------------------------------

    async def sleep(self, tags: tuple[str, ...] | None = None) -> None:
        """Release memory: by default weights and KV cache. The replica must have drained."""
        await self._to_rest()
        self._awake.clear()
        await self._engine.command("sleep", tags=list(tags or ("kv_cache", "weights")))

    async def wake_up(self, tags: tuple[str, ...] | None = None) -> None:
        """Take memory back; requests are served again once the KV cache is there."""
        chosen = list(tags or ("weights", "kv_cache"))
        await self._engine.command("wake", tags=chosen)
        if "kv_cache" in chosen:
            self._awake.set()

    async def clear_kv_cache(self) -> None:
        """Drop the prefix caches of all stacks."""
        async with self._switcher.lock:
            await self._engine.command("flush")

    async def set_global_steps(self, step: int) -> None:
        """The training step that the next stage belongs to; it begins in the base layout."""
        if step != self._step:
            await self._end_stage()
            await self._narrow_when_drained()
        self._step = step

    async def update_weights(
        self, *, source: str, arguments: list[dict[str, Any]], version: int | None
    ) -> None:
        """Load new weights in every rank, from what `source` yields there, and drop all prefix caches.

        `source` is "module:function", called in rank r with `arguments[r]`.
        """
        await self._to_rest()
        await self._engine.command(
            "update_weights",
            timeout_seconds=WEIGHTS_TIMEOUT_SECONDS,
            source=source,
            arguments=arguments,
            version=version,
        )

    async def _to_rest(self) -> None:
        """End the stage and return to the base layout."""
        if self._outstanding:
            raise RuntimeError(f"{self._outstanding} requests are still being served: abort them first")
        await self._end_stage()
        await self._narrow_when_drained()

    # -- watching ----------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at the ranks' records, let the rule decide, tell what happens. Never ends by a fault."""
        while True:
            await asyncio.sleep(POLL_SECONDS if self._outstanding else 4 * POLL_SECONDS)
            try:
                if self._engine.fault:
                    continue
                if not self._outstanding:
                    if time.monotonic() - self._last_end_at > DRAINED_SECONDS:
                        await self._narrow_when_drained()
                    continue
                if self._stage is None:
                    continue
                sample = self._observe(self._stage)
                glance = self._stage.progress(sample, replica=self._settings.replica, step=self._step)
                if self._stage.glances.is_due(glance, sample.at):
                    self._emit(glance)
                decision = self._decide(self._stage, sample)
                if decision is not None:
                    await self._act(self._stage, decision)
            except Exception:
                log.exception("replica %d: watching failed; the layout stays", self._settings.replica)
                await asyncio.sleep(1.0)

    def _observe(self, stage: Stage) -> BatchSample:
        records = self.records()
        for step in new_group_steps(self._engine.records):
            self._learner.add(step)
        heads = records[:: self._engine.degree]
        sample = BatchSample(
            at=time.time(),
            running=tuple(r.running for r in heads),
            waiting=self._outstanding - sum(r.running for r in heads),
            degree=self._engine.degree,
        )
        stage.observe(sample, longest_tokens=max(r.longest_tokens for r in heads))
        stage.count_prefills([r.prefilled_tokens_total for r in records])
        return sample

    def _decide(self, stage: Stage, sample: BatchSample) -> Decision | None:
        if self._settings.rollout.mode == "off" or stage.failed_attempts >= FAILED_ATTEMPTS_PER_STAGE:
            return None
        if len(stage.switches) >= ATTEMPTS_PER_STAGE:
            return None
        now = time.monotonic()
        snapshot = Snapshot(
            at_seconds=now,
            footprint=self._settings.rollout.footprint,
            degree=sample.degree,
            running=sample.running,
            waiting=max(0, sample.waiting),
            arrivals_settled=now - self._last_arrival_at > ARRIVALS_SETTLED_SECONDS,
            longest_decoded_tokens=stage.longest_tokens,
            switches_done_in_stage=len(stage.switches),
            boundary_seconds=boundary_seconds(
                [reader.read() for reader in self._engine.records[:: sample.degree]],
                time.time() + self._order_seconds,
            ),
        )
        decision = self.decisions.decide(snapshot, lambda: self._live(stage))
        if decision is not None:
            self._order_seconds = time.monotonic() - now
        return decision

    def _live(self, stage: Stage) -> tuple[LiveRequest, ...] | None:
        """The running requests as the leaders' records list them; None where one cannot be read now."""
        groups = [reader.live() for reader in self._engine.records[:: self._engine.degree]]
        listed = [group for group in groups if group is not None]
        return stage.live_requests(listed) if len(listed) == len(groups) else None

    async def _act(self, stage: Stage, decision: Decision) -> None:
        if self.decisions.mode == "advise":
            if stage.switches and stage.switches[-1].to_degree == decision.degree:
                return
            stage.add_switch(self._switcher.record(decision, "advised"), requests=[])
            return
        await self._switch(stage, decision)

    # -- switching ---------------------------------------------------------------------

    async def _narrow_when_drained(self) -> None:
        """Back to the base layout, when nothing is served."""
        base = self._settings.rollout.degrees[0]
        if self._outstanding == 0 and self._engine.degree != base:
            await self._switch(None, Decision(degree=base, reason="the stage has drained"))

    async def _switch(self, stage: Stage | None, decision: Decision) -> None:
        """Switch, and tell what became of it. One that was refused or called off leaves the layout."""
        done = await self._switcher.switch(decision, is_live=stage is not None)
        if done is None:
            return
        if stage is not None:
            stage.failed_attempts += done.record.outcome == "aborted"
            stage.add_switch(done.record, requests=done.requests)
        self._emit(SwitchDone(replica=self._settings.replica, step=self._step, switch=done.record))

    async def _end_stage(self) -> None:
        """Finish the stage. A switch that is under way is of this one, and must not reach into the next."""
        await self._switcher.settled()
        self._finish_stage()

    def _finish_stage(self) -> None:
        """Tell the stage's record, judged by the true lengths: each switch's gain, and all other plans."""
        stage, self._stage = self._stage, None
        if stage is None:
            return
        self._learner.end_stage()
        if not stage.requests:
            self.decisions.end_stage(None)
            return
        record = stage.record(self._settings.replica, self._step, self._learner.prices)
        record = self._reviewer.judged(stage, record)
        self._emit(record)
        self.decisions.end_stage(record)
