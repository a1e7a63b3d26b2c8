"""The present stage of a replica: looked at, decided about, and judged when it has ended.

The ranks' records are read once a look: progress, step times, the snapshot that the policy
decides by and the wait at the boundary all come from the same reading.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from taper_policy.decision.correction import Correction
from taper_policy.decision.decision import Decision
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.profile.profile import Profile
from taper_rollout.events import BatchSample, StageRecord
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.decider import Decider
from taper_rollout.replica.served_requests import ServedRequests
from taper_rollout.replica.stage import Stage
from taper_rollout.replica.stage_review import StageReviewer
from taper_rollout.replica.step_learner import StepLearner
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.shared_memory.rank_record import RankRecord, boundary_seconds, new_group_steps

# VeRL sends a stage's requests one by one; a rule that waits for the tail must not mistake the start for it.
ARRIVALS_SETTLED_SECONDS = 0.5
FIRST_COMMAND_SECONDS = 0.01
ATTEMPTS_PER_STAGE = 32
FAILED_ATTEMPTS_PER_STAGE = 3


class StageKeeper:
    """`present` is None between stages. What is learned from stages corrects the profile of the next."""

    def __init__(
        self,
        engine: ElasticEngine,
        settings: ReplicaSettings,
        served: ServedRequests,
        emit: Callable[[Any], None],
    ) -> None:
        self._engine, self._settings, self._served, self._emit = engine, settings, served, emit
        self.present: Stage | None = None
        self._reviewer = StageReviewer(settings)
        self._learner = StepLearner(footprint=settings.rollout.footprint, replica=settings.replica)
        # From reading the records to the switch command, as it was the last time: deciding takes time.
        self._command_seconds = FIRST_COMMAND_SECONDS

    def use(self, profile: Profile | None) -> None:
        """Judge stages by `profile`, and correct it."""
        self._reviewer.use(profile)
        self._learner.use(profile)

    @property
    def correction(self) -> Correction:
        """What the finished stages have shown of the profile."""
        return self._learner.correction

    def begin(self, degree: int) -> Stage:
        """A new stage, whose first layout is of `degree`."""
        self.present = Stage(self._settings.rollout.footprint, degree)
        self.present.correction = self.correction
        return self.present

    def decide(self, stage: Stage, decisions: Decider, *, step: int) -> Decision | None:
        """Observe the batch, report progress if that is due, and decide: None to stay in the layout."""
        sample, leaders = self._observe(stage)
        progress = stage.progress(sample, replica=self._settings.replica, step=step)
        if stage.throttle.is_due(progress, sample.at):
            self._emit(progress)
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
            arrivals_settled=now - self._served.last_arrival_at > ARRIVALS_SETTLED_SECONDS,
            longest_decoded_tokens=stage.longest_tokens,
            switches_done_in_stage=len(stage.switches),
            boundary_seconds=boundary_seconds(leaders, time.time() + self._command_seconds),
        )
        decision = decisions.decide(snapshot, lambda: self._live(stage))
        if decision is not None:
            self._command_seconds = time.monotonic() - now
        return decision

    def _observe(self, stage: Stage) -> tuple[BatchSample, list[RankRecord]]:
        """Read each rank's record once: the batch as a sample, and the records of the groups' leaders."""
        records = [reader.read() for reader in self._engine.records]
        for step in new_group_steps(self._engine.records, records):
            self._learner.add(step)
        leaders = records[:: self._engine.degree]
        running = tuple(record.running for record in leaders)
        sample = BatchSample(
            at=time.time(),
            running=running,
            waiting=self._served.count - sum(running),
            degree=self._engine.degree,
        )
        stage.observe(sample, longest_tokens=max(record.longest_tokens for record in leaders))
        stage.count_prefills([record.prefilled_tokens_total for record in records])
        return sample, leaders

    def _live(self, stage: Stage) -> tuple[LiveRequest, ...] | None:
        """The running requests as the leaders' records list them; None while a record cannot be read."""
        groups = [reader.live() for reader in self._engine.records[:: self._engine.degree]]
        listed = [group for group in groups if group is not None]
        return stage.live_requests(listed) if len(listed) == len(groups) else None

    def finish(self, step: int) -> StageRecord | None:
        """End the present stage, if there is one: its record, judged by the true lengths.

        None where it had no finished request.
        """
        stage, self.present = self.present, None
        if stage is None:
            return None
        self._learner.end_stage()
        if not stage.requests:
            return None
        record = stage.record(self._settings.replica, step, self._learner.prices)
        return self._reviewer.judged(stage, record)
