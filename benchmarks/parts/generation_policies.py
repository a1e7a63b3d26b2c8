"""The ways to run a stage that `generation.py` compares, each a `Decider` of a live replica."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from taper_api.job.rollout_spec import Policy
from taper_policy.decision.correction import Correction
from taper_policy.decision.decision import Decision
from taper_policy.decision.snapshot import Snapshot
from taper_policy.profile.profile import Profile
from taper_policy.simulation.oracle import LayoutPlan
from taper_rollout.events import StageRecord
from taper_rollout.profiling.replica_settings import ReplicaSettings
from taper_rollout.replica.decider import Decider, LiveRequestsReader

THRESHOLDS = (2, 4, 8, 16, 32)
PREDICTOR, AT_ONCE, ORACLE = "predictor", "widen-at-once", "oracle's plan"


class Planned(Decider):
    """Follows a fixed plan, made with the true lengths or of one layout; predicts nothing."""

    mode = "enforce"

    def __init__(self, plan: LayoutPlan) -> None:
        self.plan = plan

    def use(self, profile: Profile | None) -> None:
        """Nothing is predicted."""

    def start_stage(self, step: int, correction: Correction) -> None:
        """Nothing is remembered."""

    def first_degree(self) -> int:
        """The plan's first degree."""
        return self.plan.degree

    def add_finished(self, prompt: str, tokens: int) -> None:
        """Nothing is learned."""

    def decide(self, snapshot: Snapshot, live: LiveRequestsReader) -> Decision | None:
        """Widen once no more requests run than the plan's threshold says."""
        return self.plan.decide(snapshot) if snapshot.is_settled else None

    def end_stage(self, record: StageRecord | None) -> None:
        """Nothing is learned."""


def static_name(degree: int) -> str:
    """The name of the policy that stays in one layout."""
    return f"static TP{degree}"


def compared_policies(
    settings: ReplicaSettings, profile: Profile, send: Callable[[Any], None], thresholds: Iterable[int]
) -> dict[str, Decider]:
    """All policies, static layouts first, except the oracle's plan, which differs for each stage."""
    settings_of: dict[str, dict[str, Any]] = {AT_ONCE: {"name": AT_ONCE}}
    settings_of |= {
        f"threshold {requests}": {"name": "threshold", "threshold": {"requests": requests}}
        for requests in thresholds
    }
    settings_of[PREDICTOR] = {"name": PREDICTOR}
    found: dict[str, Decider] = {
        static_name(degree): Planned(LayoutPlan(degree=degree)) for degree in settings.rollout.degrees
    }
    for name, policy in settings_of.items():
        rollout = settings.rollout.model_copy(update={"policy": Policy.model_validate(policy)})
        found[name] = Decider(dataclasses.replace(settings, rollout=rollout), send)
        found[name].use(profile)
    return found
