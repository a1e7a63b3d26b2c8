"""Single plans: ownership, what is created and in which order, waits, deadlines and clean-up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from taper_api.job.spec import OPERATOR_NAME
from taper_api.schema.crd import rlhfjob_crd
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    POD_MONITORS,
    PODS,
    RAY_JOBS,
    RLHF_JOBS,
    SERVICE_ACCOUNTS,
)
from taper_operator.manifests.names import JOB_UID_LABEL
from taper_operator.observation.observation import Observation
from taper_operator.reconcile.action import Apply, Create, Delete
from taper_operator.reconcile.plan import plan

from ...api.job_mutations import MutatedJob, mutated_jobs
from ..job_objects import NOW, POLICY, resource
from .cluster_model import ClusterModel
from .test_plan_simulation import happens, until_running

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def condition(cluster: ClusterModel, kind: str) -> tuple[str, str]:
    (found,) = (each for each in cluster.status.conditions if each.type == kind)
    return found.status, found.reason


def running(**changes: Any) -> ClusterModel:
    cluster = ClusterModel(resource({name.replace("__", "."): value for name, value in changes.items()}))
    until_running(cluster)
    assert cluster.status.phase == "Running"
    return cluster


def test_objects_are_created_in_order_and_the_ray_job_last() -> None:
    cluster = ClusterModel(resource({"spec.volumes": {"checkpoints": {"size": "1Ti"}}}))
    first = cluster.reconcile()
    assert [(type(action), action.resource) for action in first.actions] == [
        (Create, kind)
        for kind in (SERVICE_ACCOUNTS, NETWORK_POLICIES, POD_MONITORS, CLAIMS, CONFIG_MAPS, RAY_JOBS)
    ]
    assert first.needs_fresh_read
    assert first.status is not None
    assert first.status.attempt == 1, "the number is claimed before anything is made"


@pytest.mark.parametrize("changes", [{"spec.managedBy": "example.com/other"}])
def test_a_job_of_another_manager_is_left_alone(changes: dict[str, Any]) -> None:
    assert plan(Observation(resource=resource(changes)), POLICY, NOW).status is None
    assert plan(Observation(resource=resource(changes)), POLICY, NOW).actions == ()


def test_a_job_that_is_deleted_is_left_to_the_garbage_collector() -> None:
    obj = resource(None, deletionTimestamp="2026-11-21T12:00:00Z")
    assert plan(Observation(resource=obj), POLICY, NOW).actions == ()


def test_an_invalid_job_is_reported_and_a_running_attempt_continues() -> None:
    cluster = running()
    assert cluster.job is not None
    cluster.job["spec"]["training"]["steps"] = 0
    again = cluster.reconcile()
    assert again.actions == ()
    assert condition(cluster, "Validated") == ("False", "InvalidSpec")
    assert condition(cluster, "Running") == ("True", "JobRunning")


@pytest.mark.parametrize(("kuberay", "reason"), [("missing", "KubeRayMissing"), ("too_old", "KubeRayTooOld")])
def test_without_kuberay_nothing_is_created(kuberay: Any, reason: str) -> None:
    cluster = ClusterModel(resource())
    cluster.kuberay = kuberay
    planned = cluster.reconcile()
    assert planned.actions == ()
    assert planned.requeue_seconds is not None
    assert condition(cluster, "ClusterReady") == ("False", reason)
    assert cluster.status.phase == "Pending"


def test_the_conditions_of_a_running_job() -> None:
    cluster = running()
    for kind in ("Validated", "Admitted", "ClusterReady", "Running"):
        assert condition(cluster, kind)[0] == "True"
    for kind in ("Complete", "Failed", "Suspended", "Degraded"):
        assert condition(cluster, kind)[0] == "False"
    assert cluster.status.observed_generation == 1
    assert cluster.status.pods is not None
    assert (cluster.status.pods.ready, cluster.status.pods.desired) == (2, 2)


def test_a_queued_job_waits_and_its_time_does_not_run() -> None:
    cluster = ClusterModel(resource({"spec.kueue": {"queueName": "q"}, "spec.activeDeadlineSeconds": 60}))
    for event in ("reconcile", "steps", "reconcile", "an hour", "reconcile"):
        happens(cluster, event)
    assert cluster.status.phase == "Queued"
    assert cluster.status.active_since is None


def test_a_failure_is_tried_again_after_a_backoff_that_grows() -> None:
    cluster = running()
    for wait in (10, 20, 40):
        cluster.end_job("FAILED", "AppFailed")
        planned = cluster.reconcile()
        assert cluster.status.phase == "Backoff"
        assert [type(action) for action in planned.actions] == [Delete]
        happens(cluster, "steps")
        cluster.pass_time(wait - 1)
        assert cluster.reconcile().actions == ()
        cluster.pass_time(1)
        assert cluster.reconcile().actions
        until_running(cluster)
    assert (cluster.status.failures, cluster.status.attempt) == (3, 4)


def test_the_next_attempt_waits_for_the_pods_of_the_last() -> None:
    cluster = running()
    cluster.end_job("FAILED", "AppFailed")
    cluster.reconcile()
    cluster.pass_time(3600)
    for _ in range(5):
        if not cluster._all(PODS):
            break
        assert cluster.reconcile().actions == ()
        assert cluster.status.attempt == 1
        cluster.kuberay_step()
    happens(cluster, "steps")
    cluster.reconcile()
    assert cluster.status.attempt == 2


def test_a_cluster_without_pods_is_waited_for_too() -> None:
    """It may be about to make some."""
    obj = resource()
    cluster = {"metadata": {"name": "full-9-abcde", "labels": {"taper.dev/job": "full"}}}
    assert plan(Observation(resource=obj, ray_clusters=(cluster,)), POLICY, NOW).actions == ()


def test_a_pod_without_a_cluster_is_waited_for_too() -> None:
    """Such as one on a lost node."""
    pod = {"metadata": {"name": "full-9-abcde-0", "labels": {"taper.dev/job": "full"}}}
    planned = plan(Observation(resource=resource(), pods=(pod,)), POLICY, NOW)
    assert planned.actions == ()
    assert planned.status is not None
    assert planned.status.attempt == 0


def test_a_claimed_attempt_waits_for_pods_that_appeared_since() -> None:
    cluster = ClusterModel(resource())
    cluster.reconcile(most_actions=0)
    assert cluster.status.attempt == 1
    pod = {"metadata": {"name": "full-9-abcde-0", "labels": {"taper.dev/job": "full"}}}
    cluster.objects[PODS, "full-9-abcde-0"] = pod
    assert cluster.reconcile().actions == ()
    del cluster.objects[PODS, "full-9-abcde-0"]
    assert cluster.reconcile().actions[-1].resource == RAY_JOBS
    assert cluster.status.attempt == 1


def test_an_object_of_another_owner_is_left_alone() -> None:
    account = {"metadata": {"name": "taper-full", "namespace": "team", "uid": "x"}}
    observation = Observation(resource=resource(), labelled=((SERVICE_ACCOUNTS, account),))
    assert plan(observation, POLICY, NOW).actions == ()


def test_a_changed_shared_object_is_restored() -> None:
    cluster = running()
    policy = cluster.objects[NETWORK_POLICIES, "taper-full"]
    policy["metadata"]["annotations"]["taper.dev/digest"] = "old"
    del cluster.objects[POD_MONITORS, "taper-full"]
    apply, create = cluster.reconcile().actions
    assert isinstance(apply, Apply)
    assert apply.uid == policy["metadata"]["uid"]
    assert isinstance(create, Create)


def test_the_deadline_is_of_the_whole_job() -> None:
    cluster = running(spec__activeDeadlineSeconds=3600)
    cluster.pass_time(1800)
    cluster.end_job("FAILED", "AppFailed")
    for event in ("reconcile", "steps", "a minute", "reconcile"):
        happens(cluster, event)
    until_running(cluster)
    cluster.pass_time(1700)
    assert cluster.reconcile().status is None
    cluster.pass_time(100)
    planned = cluster.reconcile()
    assert [action.resource for action in planned.actions] == [RAY_JOBS]
    assert condition(cluster, "Failed") == ("True", "DeadlineExceeded")
    assert cluster.status.attempts[-1].outcome == "Stopped"


def test_suspended_time_does_not_count() -> None:
    cluster = running(spec__activeDeadlineSeconds=3600)
    cluster.pass_time(1800)
    for event in ("suspend", "reconcile", "steps", "reconcile", "an hour", "an hour", "reconcile"):
        happens(cluster, event)
    assert cluster.status.phase == "Suspended"
    happens(cluster, "resume")
    until_running(cluster)
    assert cluster.status.phase == "Running"
    assert cluster.status.active_seconds == 1800
    assert [attempt.outcome for attempt in cluster.status.attempts] == ["Suspended", "Active"]
    assert cluster.status.failures == cluster.status.disruptions == 0


def test_a_job_that_succeeded_is_complete_and_its_ray_job_stays() -> None:
    cluster = running()
    cluster.end_job("SUCCEEDED")
    assert cluster.reconcile().actions == ()
    assert condition(cluster, "Complete") == ("True", "JobSucceeded")
    assert (RAY_JOBS, "full-1") in cluster.objects


def test_a_job_that_was_stopped_is_not_complete() -> None:
    cluster = running(spec__backoffLimit=0)
    cluster.end_job("STOPPED")
    cluster.reconcile()
    assert condition(cluster, "Complete")[0] == "False"
    assert condition(cluster, "Failed") == ("True", "BackoffLimitExceeded")
    assert cluster.status.attempts[-1].reason == "JobStopped"


def test_an_ended_job_is_deleted_after_its_time() -> None:
    cluster = running(spec__ttlSecondsAfterFinished=600)
    cluster.end_job("SUCCEEDED")
    assert cluster.reconcile().requeue_seconds == pytest.approx(600.1)
    cluster.pass_time(600)
    (delete,) = cluster.reconcile().actions
    assert isinstance(delete, Delete)
    assert delete.resource == RLHF_JOBS


def test_a_worker_that_is_missing_degrades_the_job() -> None:
    cluster = running()
    (name,) = (n for kind, n in cluster.objects if kind == PODS and n.endswith("-1-0"))
    del cluster.objects[PODS, name]
    cluster.kuberay_step()
    cluster.reconcile()
    assert condition(cluster, "Degraded") == ("True", "PodsMissing")
    assert condition(cluster, "ClusterReady")[0] == "False"


def test_config_maps_of_earlier_attempts_are_deleted() -> None:
    cluster = running()
    cluster.end_job("FAILED", "AppFailed")
    for event in ("reconcile", "steps", "a minute", "reconcile", "reconcile"):
        happens(cluster, event)
    assert [name for kind, name in cluster.objects if kind == CONFIG_MAPS] == ["full-2"]


def test_a_job_that_kuberay_refuses_is_not_tried_again() -> None:
    cluster = ClusterModel(resource())
    cluster.reconcile()
    cluster.objects[RAY_JOBS, "full-1"]["status"] = {"jobDeploymentStatus": "ValidationFailed"}
    cluster.reconcile()
    assert condition(cluster, "Failed") == ("True", "ValidationFailed")


@given(JSON, JSON)
def test_no_plan_raises_for_any_status_of_others(ray_status: Any, pod_status: Any) -> None:
    cluster = running()
    for kind, status in ((RAY_JOBS, ray_status), (PODS, pod_status)):
        for obj in cluster._all(kind):
            obj["status"] = status
    cluster.reconcile()


SCHEMA = rlhfjob_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def refusal(spec: Any, **metadata: Any) -> str:
    """A job that an older CRD accepted: its status reports the error, and nothing is created."""
    planned = plan(Observation(resource=resource(None, **metadata) | {"spec": spec}), POLICY, NOW)
    assert planned.actions == ()
    assert planned.status is not None
    assert planned.status.attempt == 0
    (validated,) = (each for each in planned.status.conditions if each.type == "Validated")
    assert (validated.status, validated.reason) == ("False", "InvalidSpec")
    assert [event.reason for event in planned.events] == ["InvalidSpec"]
    return validated.message


@given(mutated_jobs(SCHEMA))
def test_a_job_with_one_error_is_reported_and_nothing_is_created(mutated: MutatedJob) -> None:
    spec = mutated.job.get("spec")
    assume(not isinstance(spec, dict) or spec.get("managedBy", OPERATOR_NAME) == OPERATOR_NAME)
    message = refusal(spec, name=mutated.job["metadata"]["name"])
    path, colon, _ = message.partition(": ")
    assert path.startswith(("spec", "metadata.name"))
    assert colon


@given(JSON)
def test_no_plan_raises_for_any_job(spec: Any) -> None:
    assert "spec" in refusal(spec)


FIELDS = ["jobDeploymentStatus", "jobStatus", "reason", "message", "rayClusterName", "rayClusterStatus"]
WORDS = ["", "Running", "RUNNING", "Failed", "FAILED", "Complete", "Suspended", "1 2", "x" * 5000, "\u00e4"]


@given(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(WORDS) | JSON))
def test_every_planned_status_is_accepted_by_the_schema(status: dict[str, Any]) -> None:
    cluster = running()
    cluster.objects[RAY_JOBS, "full-1"]["status"] = status
    cluster.reconcile()
    json.dumps(cluster.job)
    cluster.status  # noqa: B018  it is read as strictly as it is written
    assert cluster.status.phase != "Complete" or status.get("jobStatus") == "SUCCEEDED"


def test_an_invalid_status_stops_the_plan() -> None:
    """Its counts would be lost."""
    with pytest.raises(ValueError, match="failures"):
        plan(Observation(resource=resource() | {"status": {"failures": "many"}}), POLICY, NOW)


def test_a_refused_job_keeps_its_running_attempt() -> None:
    cluster = running(spec__image={"pullSecrets": ["mine"]})
    observation = cluster.observe()
    planned = plan(observation, replace(POLICY, allowed_secrets=frozenset()), cluster.now)
    assert planned.actions == ()
    assert planned.status is not None
    assert planned.status.phase == "Running"


def test_a_deleted_pod_still_shows_the_reason() -> None:
    cluster = running()
    (pod, *_) = (obj for (kind, _), obj in cluster.objects.items() if kind == PODS)
    target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
    departed = pod | {"status": {"conditions": [target]}}
    other = departed | {
        "metadata": pod["metadata"] | {"labels": pod["metadata"]["labels"] | {JOB_UID_LABEL: "x"}}
    }

    def reason(gone: KubeObject) -> str:
        planned = plan(replace(cluster.observe(), departed_pods=(gone,)), POLICY, cluster.now)
        attempt = (planned.status or cluster.status).attempts[-1]
        return attempt.disruption.reason if attempt.disruption is not None else ""

    assert reason(departed) == "DeletionByPodGC"
    assert reason(other) == "", "that was another job's"
