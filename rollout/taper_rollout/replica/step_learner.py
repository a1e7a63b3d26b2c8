"""Corrects a replica's profile by the decode steps that it makes (`taper_policy.decision.correction`).

Steps are kept until their stage ends, and no more of them than `MOST_STEPS`: a long stage's
are thinned out evenly. A fault here is logged and corrects nothing; it never ends a stage.
"""

from __future__ import annotations

import logging

from taper_policy.decision.correction import CorrectedPrices, Correction, TimedStep, learned
from taper_policy.profile.profile import Profile
from taper_rollout.shared_memory.rank_record import Step

log = logging.getLogger("taper.step_learner")

MOST_STEPS = 8192


class StepLearner:
    """See the module's docstring. `correction` is what was learned in the stages before."""

    def __init__(self, *, footprint: int, replica: int) -> None:
        self._footprint, self._replica = footprint, replica
        self._profile: Profile | None = None
        self._steps: list[TimedStep] = []
        self._every = 1
        self._seen = 0
        self.correction = Correction()

    def use(self, profile: Profile | None) -> None:
        """Correct `profile`; what was learned of another one is forgotten."""
        self._profile, self.correction = profile, Correction()
        self._forget()

    @property
    def prices(self) -> CorrectedPrices | None:
        """The profile with its steps corrected; None without a profile."""
        return None if self._profile is None else CorrectedPrices(self._profile, self.correction)

    def add(self, step: Step) -> None:
        """A group has made a step."""
        self._seen += 1
        if self._profile is None or self._seen % self._every:
            return
        if len(self._steps) == MOST_STEPS:
            self._steps, self._every = self._steps[::2], 2 * self._every
        self._steps.append(TimedStep(step.degree, step.batch, step.context_tokens / step.batch, step.seconds))

    def end_stage(self) -> None:
        """Learn from the steps of the stage. Never raises."""
        if self._profile is not None and self._steps:
            try:
                self.correction = learned(self.correction, self._steps, self._profile, self._footprint)
            except Exception:
                log.exception("replica %d: nothing is learned of a stage", self._replica)
        self._forget()

    def _forget(self) -> None:
        self._steps, self._every, self._seen = [], 1, 0
