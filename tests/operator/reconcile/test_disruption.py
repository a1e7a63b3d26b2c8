"""Which ends of pods are disruptions by the cluster, and which are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from taper_operator.observation.pod_state import CLUSTER_REASONS, PodState, pod_state
from taper_operator.observation.ray_job_state import RayJobState, ray_job_state
from taper_operator.reconcile.disruption import disruption_seen, reason_of

from ..observation.test_ray_job_state import ANYTHING

NOW = "2026-11-21T12:00:00Z"


def pod(status: Any = None, role: str = "gpu", **metadata: Any) -> PodState:
    labels = {"taper.dev/role": role, "taper.dev/attempt": "1"}
    return pod_state({"metadata": {"name": "p", "labels": labels, **metadata}, "status": status or {}})


def ray_job(job: str = "RUNNING", deployment: str = "Running", reason: str = "") -> RayJobState:
    status = {"jobStatus": job, "jobDeploymentStatus": deployment, "reason": reason}
    return ray_job_state({"metadata": {"name": "a-1"}, "spec": {}, "status": status})


def seen(pods: list[PodState], job: RayJobState | None = None) -> str | None:
    found = disruption_seen(job or ray_job(), pods, NOW)
    return None if found is None else found.reason


OUT_OF_MEMORY = {"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]}
LOST = ray_job(deployment="Failed", reason="JobStatusCheckTimeoutExceeded")


@pytest.mark.parametrize(
    "reason", ["PreemptionByScheduler", "DeletionByTaintManager", "EvictionByEvictionAPI"]
)
def test_a_pod_that_is_a_target_of_disruption(reason: str) -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    assert seen([pod(), pod({"conditions": [target]})]) == reason
    assert seen([pod({"conditions": [target | {"status": "False"}]})]) is None


@pytest.mark.parametrize("reason", sorted(CLUSTER_REASONS))
def test_a_pod_that_the_cluster_ended(reason: str) -> None:
    assert seen([pod({"phase": "Failed", "reason": reason})]) == reason


@pytest.mark.parametrize("reason", ["", "Error", "OOMKilled", "DeadlineExceeded"])
def test_a_pod_that_ended_by_itself_is_no_disruption(reason: str) -> None:
    assert seen([pod({"phase": "Failed", "reason": reason})]) is None


def test_a_head_that_cannot_be_reached() -> None:
    assert seen([pod()], LOST) == "HeadLost"


def test_a_head_that_ran_out_of_memory_is_no_disruption() -> None:
    assert seen([pod(OUT_OF_MEMORY, role="head")], LOST) is None


def test_a_deleted_head_is_a_disruption() -> None:
    head = pod(role="head", deletionTimestamp=NOW)
    assert seen([head]) == "HeadDeleted"
    assert seen([head], ray_job("FAILED", "Failed")) is None, "KubeRay tears down what has failed"
    assert seen([head], ray_job("SUCCEEDED", "Complete")) is None
    assert seen([pod(deletionTimestamp=NOW)]) is None


@given(ANYTHING, ANYTHING)
def test_any_pod_can_be_read(status: Any, labels: Any) -> None:
    state = pod_state({"metadata": {"labels": labels}, "status": status})
    disruption_seen(ray_job(), [state], NOW)


@pytest.mark.parametrize(
    ("text", "reason"), [("a b", "ab"), ("1", "Other"), ("", "Other"), ("\u00e4" * 9, "Other")]
)
def test_reasons_are_valid_condition_reasons(text: str, reason: str) -> None:
    assert reason_of(text, "Other") == reason
