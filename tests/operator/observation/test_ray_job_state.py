"""What KubeRay says, and what it means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taper_operator.observation.ray_job_state import RayJobState, ray_job_state


def state(**status: Any) -> RayJobState:
    return ray_job_state({"metadata": {"name": "a-1"}, "spec": {}, "status": status})


@pytest.mark.parametrize(
    ("deployment", "job", "expected"),
    [
        ("", "", (False, False, False)),
        ("Initializing", "", (False, False, False)),
        ("Running", "", (False, False, False)),  # before the job is submitted
        ("Running", "PENDING", (False, False, False)),
        ("Running", "RUNNING", (True, False, False)),
        ("Complete", "SUCCEEDED", (False, True, False)),
        ("Failed", "FAILED", (False, False, True)),
        ("Complete", "STOPPED", (False, False, True)),
        ("Failed", "RUNNING", (False, False, True)),  # its last status is stale
        ("ValidationFailed", "", (False, False, True)),
        ("Suspending", "RUNNING", (False, False, False)),
        ("Suspended", "", (False, False, False)),
    ],
)
def test_running_succeeded_failed(deployment: str, job: str, expected: tuple[bool, bool, bool]) -> None:
    found = state(jobDeploymentStatus=deployment, jobStatus=job)
    assert (found.is_running, found.has_succeeded, found.has_failed) == expected


def test_readiness_is_by_counts_not_by_state() -> None:
    cluster = {"state": "ready", "desiredWorkerReplicas": 2, "readyWorkerReplicas": 1}
    assert not state(rayClusterStatus=cluster).has_all_pods
    assert state(rayClusterStatus=cluster | {"readyWorkerReplicas": 2}).has_all_pods
    gone = {"conditions": [{"type": "HeadPodReady", "status": "False"}], "readyWorkerReplicas": 2}
    assert not state(rayClusterStatus=cluster | gone).has_all_pods


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(ANYTHING, ANYTHING, ANYTHING)
def test_any_ray_job_can_be_read(status: Any, cluster: Any, labels: Any) -> None:
    obj = {"metadata": {"labels": labels}, "spec": cluster, "status": status}
    found = ray_job_state(obj)
    assert found.has_succeeded <= (found.job_status == "SUCCEEDED")
    state(rayClusterStatus=cluster)
