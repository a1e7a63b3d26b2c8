"""How attempts end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from taper_api.status.attempt import Attempt, Disruption
from taper_operator.kube.timestamp import timestamp
from taper_operator.observation.ray_job_state import RayJobState
from taper_operator.reconcile.verdict import Verdict, verdict

from ..job_objects import NOW, parsed, resource
from .test_disruption import ray_job

SPEC = parsed(resource())[0].spec


def ended(job: RayJobState | None, *, ago: float | None = None, **facts: Any) -> Verdict | None:
    """ago: seconds since a disruption was seen"""
    attempt = Attempt(number=1, ray_job="full-1", outcome="Active")
    if ago is not None:
        time = timestamp(NOW - timedelta(seconds=ago))
        attempt = attempt.model_copy(update={"disruption": Disruption(time=time, reason="NodeLost")})
    facts = {"spec": SPEC, "was_admitted": True, "is_past_deadline": False, "now": NOW} | facts
    return verdict(attempt, job, facts.pop("spec"), **facts)


def outcome(*arguments: Any, **facts: Any) -> str | None:
    found = ended(*arguments, **facts)
    return None if found is None else found.outcome


FAILED = ray_job("FAILED", "Failed", "AppFailed")
SUCCEEDED = ray_job("SUCCEEDED", "Complete")
SUSPENDED_SPEC = SPEC.model_copy(update={"suspend": True})


def test_running_attempts_continue() -> None:
    assert ended(ray_job()) is None


@pytest.mark.parametrize("facts", [{"ago": 5}, {"is_past_deadline": True}, {"spec": SUSPENDED_SPEC}])
def test_a_success_counts_whatever_else_is_observed(facts: dict[str, Any]) -> None:
    assert outcome(SUCCEEDED, **facts) == "Succeeded"


def test_a_failure() -> None:
    assert ended(FAILED) == Verdict(outcome="Failed", reason="AppFailed")


def test_a_job_that_will_never_run_is_not_tried_again() -> None:
    words = 'TAPER_ERROR {"reason": "InvalidJob", "message": "is bad", "field": "spec.a"}'
    reported = replace(FAILED, message=words)
    assert ended(reported) == Verdict(
        outcome="Failed", reason="InvalidJob", message="spec.a: is bad", is_final=True
    )
    assert outcome(reported, ago=5) == "Disrupted"


@pytest.mark.parametrize(("ago", "expected"), [(0, "Disrupted"), (600, "Disrupted"), (601, "Failed")])
def test_a_failure_soon_after_a_disruption_is_a_disruption(ago: float, expected: str) -> None:
    assert outcome(FAILED, ago=ago) == expected


@pytest.mark.parametrize(("ago", "expected"), [(9, None), (10, "Disrupted")])
def test_a_disrupted_attempt_ends_after_the_grace_time(ago: float, expected: str | None) -> None:
    assert outcome(ray_job(), ago=ago) == expected


def test_an_eviction() -> None:
    suspended = RayJobState(
        **{name: getattr(ray_job(), name) for name in RayJobState.__slots__} | {"is_suspended": True}
    )
    assert outcome(suspended) == "Disrupted"
    assert outcome(suspended, was_admitted=False) is None, "it waits in the queue"


def test_a_missing_ray_job_is_a_disruption_unless_it_was_never_created() -> None:
    assert outcome(None) == "Disrupted"
    assert outcome(None, was_admitted=False) is None


def test_the_deadline_and_the_author_come_before_failures() -> None:
    assert outcome(FAILED, is_past_deadline=True) == "Stopped"
    assert outcome(FAILED, spec=SUSPENDED_SPEC) == "Suspended"


def test_a_ray_job_that_kuberay_rejects_is_final() -> None:
    found = ended(ray_job("", "ValidationFailed"))
    assert found is not None
    assert (found.outcome, found.is_final) == ("Failed", True)
