"""The present stage of a replica, and what is learned and judged from its stages."""

from __future__ import annotations

import time
from collections.abc import Sequence

from taper_policy.decision.correction import Correction
from taper_policy.profile.profile import Profile
from taper_rollout.events import BatchSample, StageRecord
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.stage import Stage
from taper_rollout.replica.stage_review import StageReviewer
from taper_rollout.replica.step_learner import StepLearner
from taper_rollout.shared_memory.rank_record import RankRecord, RecordReader, new_group_steps


class StageKeeper:
    """`present` is None between stages."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        self.present: Stage | None = None
        self.reviewer = StageReviewer(settings)
        self._learner = StepLearner(footprint=settings.rollout.footprint, replica=settings.replica)

    def use(self, profile: Profile | None) -> None:
        """Judge stages by `profile`, and correct it."""
        self.reviewer.use(profile)
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

    def observe(
        self, stage: Stage, readers: Sequence[RecordReader], *, degree: int, outstanding: int
    ) -> tuple[BatchSample, list[RankRecord]]:
        """Read each rank's record once: the batch as a sample, and the records of the groups' leaders."""
        records = [reader.read() for reader in readers]
        for step in new_group_steps(readers, records):
            self._learner.add(step)
        leaders = records[::degree]
        sample = BatchSample(
            at=time.time(),
            running=tuple(record.running for record in leaders),
            waiting=outstanding - sum(record.running for record in leaders),
            degree=degree,
        )
        stage.observe(sample, longest_tokens=max(record.longest_tokens for record in leaders))
        stage.count_prefills([record.prefilled_tokens_total for record in records])
        return sample, leaders

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
        return self.reviewer.judged(stage, record)
