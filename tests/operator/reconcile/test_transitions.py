"""Events are of transitions."""

from __future__ import annotations

from hypothesis import given

from taper_operator.reconcile.transitions import job_events

from ...api.job_specs import Fields, valid_jobs
from ..job_objects import as_served, resource
from .cluster_model import ClusterModel
from .test_plan_simulation import happens, until_running


@given(valid_jobs())
def test_equal_statuses_have_no_transition(content: Fields) -> None:
    cluster = ClusterModel(as_served(content))
    until_running(cluster)
    assert list(job_events(cluster.status, cluster.status)) == []


def test_the_events_of_a_job_that_failed_once() -> None:
    cluster = ClusterModel(resource())
    until_running(cluster)
    cluster.end_job("FAILED", "AppFailed")
    for event in ("reconcile", "steps", "a minute", "reconcile"):
        happens(cluster, event)
    until_running(cluster)
    cluster.end_job("SUCCEEDED")
    cluster.reconcile()
    assert [reason for reason, _ in cluster.events] == [
        "AttemptStarted",
        "Running",
        "AttemptFailed",
        "AttemptStarted",
        "Running",
        "AttemptSucceeded",
        "Complete",
    ]
