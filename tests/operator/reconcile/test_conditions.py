"""Conditions and the phase."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.reconcile.attempt_history import with_new_attempt
from taper_operator.reconcile.conditions import ConditionInputs, Finish, conditions, holds, phase

from ..job_objects import NOW
from ..observation.test_ray_job_state import state

EARLY, LATE = "2026-11-21T12:00:00Z", "2026-11-21T13:00:00Z"
KINDS = ["Admitted", "ClusterReady", "Complete", "Degraded", "Failed", "Running", "Suspended", "Validated"]


def inputs(**changes: Any) -> ConditionInputs:
    facts: dict[str, Any] = {
        "status": with_new_attempt(RLHFJobStatus(), "a-1", NOW),
        "kuberay": "served",
        "is_suspended": False,
        "has_leftovers": False,
        "is_queueing": False,
        "ray_job": state(jobDeploymentStatus="Running", jobStatus="RUNNING"),
    }
    return ConditionInputs(**facts | changes)


def reported(at: ConditionInputs, now: str = EARLY, generation: int = 1) -> RLHFJobStatus:
    return at.status.model_copy(update={"conditions": conditions(at, generation, now)})


def test_every_condition_is_reported_once() -> None:
    assert [condition.type for condition in reported(inputs()).conditions] == KINDS


def test_a_time_moves_only_with_the_status() -> None:
    first = reported(inputs())
    later = inputs(status=first, ray_job=state(jobDeploymentStatus="Running", jobStatus="PENDING"))
    second = {condition.type: condition for condition in reported(later, LATE, 2).conditions}
    assert second["Running"].last_transition_time == LATE
    assert second["Validated"].last_transition_time == EARLY
    assert {condition.observed_generation for condition in second.values()} == {2}


def test_how_a_job_ended_is_never_taken_back() -> None:
    ended = reported(inputs(finish=Finish("Complete", "JobSucceeded")))
    after = reported(inputs(status=ended, ray_job=None), LATE)
    assert holds(after, "Complete")
    assert not holds(after, "Failed")
    assert phase(after) == "Complete"


def test_running_is_the_job_not_the_cluster() -> None:
    assert holds(reported(inputs()), "Running")
    assert not holds(reported(inputs(ray_job=state(jobDeploymentStatus="Running"))), "Running")


def test_suspended_is_when_nothing_is_left() -> None:
    idle = inputs(status=RLHFJobStatus(), ray_job=None, is_suspended=True)
    assert holds(reported(idle), "Suspended")
    assert not holds(reported(replace(idle, has_leftovers=True)), "Suspended")
    assert phase(reported(idle)) == "Suspended"


def test_the_phase_follows_the_conditions() -> None:
    assert phase(reported(inputs())) == "Running"
    assert phase(reported(inputs(ray_job=state(jobDeploymentStatus="Initializing")))) == "Starting"
    assert phase(reported(inputs(ray_job=replace(state(), is_suspended=True)))) == "Queued"
    assert phase(reported(inputs(ray_job=None))) == "Pending"
    waiting = RLHFJobStatus(next_attempt_time=LATE)
    assert phase(reported(inputs(status=waiting, ray_job=None))) == "Backoff"


def test_a_message_is_bounded() -> None:
    (validated,) = (
        c for c in reported(inputs(refusal=("NotAllowed", "x" * 9_000))).conditions if c.type == "Validated"
    )
    assert len(validated.message) <= 4_096
