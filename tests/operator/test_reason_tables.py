"""The reference has every reason that the operator reports, and no reason that never occurs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_api.status.attempt import Disruption
from taper_api.status.rlhfjob_status import RLHFJobStatus
from taper_operator.observation.observation import KubeRay
from taper_operator.reconcile.attempt_history import with_new_attempt
from taper_operator.reconcile.conditions import ConditionInputs, conditions
from taper_operator.reconcile.plan import plan
from taper_operator.reconcile.transitions import job_events
from taper_operator.settings.pod_policy import PodPolicy

from .job_objects import NOW, resource
from .observation.test_ray_job_state import state
from .reason_tables import CONDITIONS, EVENTS, FROM_ELSEWHERE
from .reconcile.cluster_model import ClusterModel
from .reconcile.test_plan_simulation import CONDITION_REASONS, until_running

LATER = "2026-11-21T12:00:00Z"
# Reasons of Failed and Complete, which plans give, and of Validated=False, which jobs do.
BY_PLANS = {each for each in CONDITION_REASONS if each[0] in ("Failed", "Complete") and each[1] == "True"}
REFUSED = {("Validated", "False", "InvalidSpec"), ("Validated", "False", "NotAllowed")}
KUBERAYS: tuple[KubeRay, ...] = ("served", "missing", "too_old")


def all_inputs() -> Iterator[ConditionInputs]:
    """All that conditions can be read off, but for refusals and ends."""
    begun = with_new_attempt(RLHFJobStatus(), "a-1", NOW)
    taken = Disruption(time=LATER, reason="PreemptionByScheduler")
    disrupted = begun.model_copy(
        update={"attempts": (begun.attempts[0].model_copy(update={"disruption": taken}),)}
    )
    starting = state(jobDeploymentStatus="Initializing")
    running = replace(starting, deployment_status="Running", job_status="RUNNING", desired_workers=1)
    ray_jobs = (
        None,
        replace(starting, is_suspended=True),
        starting,
        running,
        replace(running, ready_workers=1),
        replace(running, ready_workers=1, is_head_ready=False),
    )
    flags = (False, True)
    for status, ray_job, kuberay, is_suspended, has_leftovers, is_queueing in itertools.product(
        (RLHFJobStatus(), begun, disrupted), ray_jobs, KUBERAYS, flags, flags, flags
    ):
        yield ConditionInputs(
            status=status,
            kuberay=kuberay,
            is_suspended=is_suspended,
            has_leftovers=has_leftovers,
            is_queueing=is_queueing,
            ray_job=ray_job,
        )


def test_every_reason_of_a_condition_is_in_the_table_and_occurs() -> None:
    said = {
        (reported.type, reported.status, reported.reason)
        for inputs in all_inputs()
        for reported in conditions(inputs, 1, LATER)
    }
    of_others = {("Degraded", "True", "PreemptionByScheduler")}
    assert said - of_others == CONDITION_REASONS - BY_PLANS - REFUSED - {("Degraded", "True", FROM_ELSEWHERE)}


def fails(message: str = "") -> Callable[[ClusterModel], None]:
    def end(cluster: ClusterModel) -> None:
        for _, ray_job in cluster.running():
            ray_job["status"]["message"] = message
        cluster.end_job("FAILED")

    return end


def is_refused_by_kuberay(cluster: ClusterModel) -> None:
    for _, ray_job in cluster.running():
        ray_job["status"] = {"jobDeploymentStatus": "ValidationFailed"}


ENDS: dict[str, Callable[[ClusterModel], None]] = {
    "JobSucceeded": lambda cluster: cluster.end_job("SUCCEEDED"),
    "BackoffLimitExceeded": fails(),
    "DeadlineExceeded": lambda cluster: cluster.pass_time(7200),
    "InvalidJob": fails('TAPER_ERROR {"reason": "InvalidJob", "message": "no such file"}'),
    "ValidationFailed": is_refused_by_kuberay,
}


@pytest.mark.parametrize("reason", ENDS)
def test_every_reported_end_of_a_job_is_in_the_table(reason: str) -> None:
    cluster = ClusterModel(resource({"spec.backoffLimit": 0, "spec.activeDeadlineSeconds": 3600}))
    until_running(cluster)
    ENDS[reason](cluster)
    cluster.reconcile()
    ended = {each.reason for each in cluster.status.conditions if each.type in ("Complete", "Failed")}
    assert ended == {reason, "NotFinished"}
    assert reason in {each[2] for each in BY_PLANS}


def test_too_many_attempts_is_in_the_table() -> None:
    begun = with_new_attempt(RLHFJobStatus(attempt=MAX_ATTEMPTS - 1), "a-9999", NOW)
    status = begun.model_dump(mode="json", by_alias=True, exclude_none=True)
    cluster = ClusterModel(resource() | {"status": status})
    cluster.ask(suspend=True)
    planned = cluster.reconcile()
    assert planned.status is not None
    (failed,) = (each for each in planned.status.conditions if each.type == "Failed")
    assert (failed.status, failed.reason) == ("True", "TooManyAttempts")
    assert {"TooManyAttempts", *ENDS} == {each[2] for each in BY_PLANS}


@pytest.mark.parametrize(
    ("changes", "policy", "reason"),
    [
        ({"spec.verl": {"+a": 1}}, PodPolicy(image="a"), "InvalidSpec"),
        ({}, PodPolicy(), "NotAllowed"),
    ],
)
def test_every_reported_refusal_is_in_the_table(
    changes: dict[str, object], policy: PodPolicy, reason: str
) -> None:
    cluster = ClusterModel(resource(changes))
    planned = plan(cluster.observe(), policy, NOW)
    assert planned.status is not None
    (validated,) = (each for each in planned.status.conditions if each.type == "Validated")
    assert (validated.type, validated.status, validated.reason) in REFUSED
    assert validated.reason == reason
    reported = [(each.reason, each.kind) for each in job_events(RLHFJobStatus(), planned.status)]
    assert reported == [each for each in EVENTS if each[0] == reason]


def test_no_reason_is_there_twice() -> None:
    assert len(CONDITIONS) == len(CONDITION_REASONS)
