"""One look at a running batch, and the decision that follows from it.

The ranks' records are read once: progress, step times, the snapshot that the policy
decides by and the wait at the boundary all come from the same reading.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from taper_policy.decision.decision import Decision
from taper_policy.decision.snapshot import Snapshot
from taper_policy.forecast.forecast import LiveRequest
from taper_rollout.events import BatchSample
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.decider import Decider
from taper_rollout.replica.served_requests import ServedRequests
from taper_rollout.replica.stage import Stage
from taper_rollout.replica.stage_keeper import StageKeeper
from taper_rollout.sglang.engine import ElasticEngine
from taper_rollout.shared_memory.rank_record import RankRecord, boundary_seconds

# VeRL sends a stage's requests one by one; a rule that waits for the tail must not mistake the start for it.
ARRIVALS_SETTLED_SECONDS = 0.5
FIRST_COMMAND_SECONDS = 0.01
ATTEMPTS_PER_STAGE = 32
FAILED_ATTEMPTS_PER_STAGE = 3


class DecisionRound:
    """Called at each poll while requests are served."""

    def __init__(
        self,
        engine: ElasticEngine,
        settings: ReplicaSettings,
        served: ServedRequests,
        stages: StageKeeper,
        emit: Callable[[Any], None],
    ) -> None:
        self._engine, self._settings, self._emit = engine, settings, emit
        self._served, self._stages = served, stages
        # From reading the records to the switch command, as it was the last time: deciding takes time.
        self._command_seconds = FIRST_COMMAND_SECONDS

    def run(self, stage: Stage, decisions: Decider, *, step: int) -> Decision | None:
        """Observe the batch, report progress if that is due, and decide: None to stay in the layout."""
        sample, leaders = self._stages.observe(
            stage, self._engine.records, degree=self._engine.degree, outstanding=self._served.count
        )
        progress = stage.progress(sample, replica=self._settings.replica, step=step)
        if stage.throttle.is_due(progress, sample.at):
            self._emit(progress)
        return self._decide(stage, decisions, sample, leaders)

    def _decide(
        self, stage: Stage, decisions: Decider, sample: BatchSample, leaders: list[RankRecord]
    ) -> Decision | None:
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

    def _live(self, stage: Stage) -> tuple[LiveRequest, ...] | None:
        """The running requests as the leaders' records list them; None while a record cannot be read."""
        groups = [reader.live() for reader in self._engine.records[:: self._engine.degree]]
        listed = [group for group in groups if group is not None]
        return stage.live_requests(listed) if len(listed) == len(groups) else None
