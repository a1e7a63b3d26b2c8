"""The coordinator of one replica: serves requests, watches the running batch, switches the layout.

One for each VeRL replica, in the replica's server actor. VeRL sees one server; groups,
layouts and switches are hidden behind `generate`. A *stage* begins with the first request
after the replica was idle and ends when VeRL puts the replica to another use (sleep, new
weights, a new step). The layout returns to the base one when a stage has drained.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from taper_policy.decision.correction import Correction
from taper_policy.decision.decision import Decision
from taper_policy.profile.profile import Profile
from taper_rollout.events import RequestRecord
from taper_rollout.profiling.calibration import calibration_of, obtain_profile
from taper_rollout.profiling.replica_settings import ReplicaSettings, engine_settings
from taper_rollout.replica.decider import Decider
from taper_rollout.replica.response import Generated, generated
from taper_rollout.replica.served_requests import ServedRequests
from taper_rollout.replica.stage import Stage, prompt_digest, request_seed
from taper_rollout.replica.stage_keeper import StageKeeper
from taper_rollout.replica.status_server import StatusServer
from taper_rollout.replica.switcher import Switcher
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.shared_memory.rank_record import RankRecord

__all__ = ["Coordinator", "Generated", "ReplicaSettings"]

log = logging.getLogger("taper.coordinator")

POLL_SECONDS = 0.005
DRAINED_SECONDS = 0.05
ABORT_TIMEOUT_SECONDS = 60.0
WEIGHTS_TIMEOUT_SECONDS = 1800.0


class Coordinator:
    """See the module's docstring. All methods are for one asyncio loop.

    `decisions` may be replaced between two stages: benchmarks compare policies on one engine.
    """

    def __init__(self, settings: ReplicaSettings, emit: Callable[[Any], None]) -> None:
        self._settings, self._emit = settings, emit
        self.decisions = Decider(settings, emit)
        self._engine = ElasticEngine(engine_settings(settings))
        self._switcher = Switcher(self._engine, settings, emit)
        self._served = ServedRequests()
        self._stages = StageKeeper(self._engine, settings, self._served, emit)
        self._step = 0
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
        profile = await obtain_profile(self._engine, self._settings, self._switcher.change_layout)
        if profile is not None:
            self._emit(calibration_of(profile, self._settings))
        self.use(profile)

    def use(self, profile: Profile | None) -> None:
        """Decide, and choose between migrating and recomputing KV, by `profile`."""
        self._switcher.profile = profile
        self.decisions.use(profile)
        self._stages.use(profile)

    @property
    def profile(self) -> Profile | None:
        """The measured costs that it decides by."""
        return self._switcher.profile

    @property
    def correction(self) -> Correction:
        """What its stages have shown of the profile."""
        return self._stages.correction

    async def close(self) -> None:
        """End the ranks; nothing of the replica is left. An interrupted stage is not reported."""
        if self._watcher is not None:
            self._watcher.cancel()
        if not self._served.count:
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
            **self._switcher.as_json(),
            "step": self._step,
            "outstanding": self._served.count,
            "asleep": not self._served.awake.is_set(),
        }

    # -- requests ----------------------------------------------------------------------

    async def generate(
        self, *, request_id: str, prompt_ids: list[int], sampling: dict[str, Any], logprobs: bool
    ) -> Generated:
        """Serve one request to its end, through any change of the layout.

        Waits while the replica sleeps; returns an empty "aborted" response while it rejects.
        Raises EngineDied when the engine is lost.
        """
        if self._served.is_rejecting:
            return Generated.rejected(logprobs)
        await self._served.admission()
        stage = self._stages.present or await self._begin_stage()
        digest, number = prompt_digest(prompt_ids), self._engine.next_number()
        sample = stage.next_sample(digest)
        if self._settings.rollout.sampling.seed is not None and "sampling_seed" not in sampling:
            seed = request_seed(self._settings.rollout.sampling.seed, self._step, digest, sample)
            sampling = sampling | {"sampling_seed": seed}
        started_at = time.time()
        with self._served.serving(), stage.live(number, prompt=digest, prompt_tokens=len(prompt_ids)):
            output = await self._engine.generate(
                prompt_ids, sampling, request_id=request_id, number=number, logprobs=logprobs
            )
        made = generated(output, logprobs)
        record = RequestRecord(
            request_id=request_id,
            prompt=digest,
            sample=sample,
            prompt_tokens=len(prompt_ids),
            response_tokens=len(made.token_ids),
            started_at=started_at,
            ended_at=time.time(),
            finish_reason=made.stop_reason,
        )
        stage.add_request(record, engine_id=output["meta_info"]["id"], group=output.get("group"))
        if made.stop_reason != "aborted" and made.token_ids and stage is self._stages.present:
            self.decisions.add_finished(digest, len(made.token_ids))
        return made

    async def _begin_stage(self) -> Stage:
        """A new stage, in the layout that it is to begin in. Its requests wait for that in the router."""
        self.decisions.start_stage(self._step, self.correction)
        first = self.decisions.first_degree()
        stage = self._stages.begin(first)
        if first != self._engine.degree and not self._served.count:
            decision = Decision(degree=first, reason="a stage begins")
            await self._switcher.switch(decision, stage=None, step=self._step)
            stage.open(self._engine.degree)
        stage.start_counting(self._engine.records)
        return stage

    async def abort_all(self, *, reject: bool = False) -> None:
        """End all live requests with what they have; hold new ones, or reject them, until resumed.

        Also in the middle of a switch: the abort follows the requests into the new layout.
        Raises TimeoutError when a request does not end.
        """
        self._served.hold(reject=reject)
        self._engine.abort_all()
        deadline = time.monotonic() + ABORT_TIMEOUT_SECONDS
        while self._served.count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._served.count} requests did not end after an abort")
            await asyncio.sleep(POLL_SECONDS)
            self._engine.abort_all()
        await self._end_stage()

    async def resume_generation(self) -> None:
        self._served.release()

    # -- what VeRL does to a server -----------------------------------------------------

    async def sleep(self, tags: tuple[str, ...] | None = None) -> None:
        """Release memory: by default weights and KV cache. The replica must have drained."""
        await self._to_rest()
        self._served.awake.clear()
        await self._engine.command("sleep", tags=list(tags or ("kv_cache", "weights")))

    async def wake_up(self, tags: tuple[str, ...] | None = None) -> None:
        """Take memory back; requests are served again once the KV cache is there."""
        chosen = list(tags or ("weights", "kv_cache"))
        await self._engine.command("wake", tags=chosen)
        if "kv_cache" in chosen:
            self._served.awake.set()

    async def clear_kv_cache(self) -> None:
        async with self._switcher.lock:
            await self._engine.command("flush")

    async def set_global_steps(self, step: int) -> None:
        """The training step that the next stage belongs to; it begins in the base layout."""
        if step != self._step:
            await self._end_stage()
            await self._narrow_when_drained()
        self._step = step

    async def update_weights(self, *, source: str, arguments: list[dict[str, Any]]) -> None:
        """Load new weights in every rank, from what `source` yields there, and drop all prefix caches.

        `source` is "module:function", called in rank r with `arguments[r]`.
        """
        await self._to_rest()
        await self._engine.command(
            "update_weights", timeout_seconds=WEIGHTS_TIMEOUT_SECONDS, source=source, arguments=arguments
        )

    async def _to_rest(self) -> None:
        """End the stage and return to the base layout. Raises RuntimeError while requests are served."""
        if self._served.count:
            raise RuntimeError(f"{self._served.count} requests are still being served: abort them first")
        await self._end_stage()
        await self._narrow_when_drained()

    # -- watching ----------------------------------------------------------------------

    async def _watch(self) -> None:
        """Poll until cancelled; an error is logged and the layout stays."""
        while True:
            await asyncio.sleep(POLL_SECONDS if self._served.count else 4 * POLL_SECONDS)
            try:
                await self._poll()
            except Exception:
                log.exception("replica %d: watching failed; the layout stays", self._settings.replica)
                await asyncio.sleep(1.0)

    async def _poll(self) -> None:
        """Look at the running batch, and make the switch that is decided."""
        if self._engine.fault or self._switcher.is_lost:
            return
        if self._served.idle_for(DRAINED_SECONDS):
            await self._narrow_when_drained()
        stage = self._stages.present
        if self._served.count and stage is not None:
            decision = self._stages.decide(stage, self.decisions, step=self._step)
            if decision is not None and self.decisions.mode == "advise":
                self._switcher.advise(decision, stage=stage)
            elif decision is not None:
                await self._switcher.switch(decision, stage=stage, step=self._step)

    async def _narrow_when_drained(self) -> None:
        """Back to the base layout, when nothing is served."""
        if not self._served.count:
            decision = Decision(degree=self._settings.rollout.degrees[0], reason="the stage has drained")
            await self._switcher.switch(decision, stage=None, step=self._step)

    async def _end_stage(self) -> None:
        """Finish the stage. A switch that is under way is of this one, and must not reach into the next."""
        await self._switcher.settled()
        self._finish_stage()

    def _finish_stage(self) -> None:
        """Report the stage's record, with each switch's gain and the comparison with other plans."""
        if self._stages.present is None:
            return
        record = self._stages.finish(self._step)
        if record is not None:
            self._emit(record)
        self.decisions.end_stage(record)
