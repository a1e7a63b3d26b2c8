"""The life of a job on a cluster: success, failure, suspension, deletion."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import yaml

from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import CONFIG_MAPS, PODS, RAY_CLUSTERS, RAY_JOBS, RLHF_JOBS

from ..conftest import KubeRay
from ..control_plane.cluster import wait_for
from ..scenarios.job_sandbox import JobSandbox, sandboxed
from ..scenarios.scenarios import RESULT_SECONDS, each_scenario_of

# -- ends ------------------------------------------------------------------------------------


@sandboxed
def a_job_runs_and_is_complete(sandbox: JobSandbox) -> None:
    sandbox.apply()
    sandbox.wait_for_phase("Running")
    for kind in ("Validated", "Admitted", "ClusterReady", "Running"):
        assert sandbox.condition(kind) == "True", kind
    assert sandbox.condition("Degraded") == "False"
    sandbox.end(1, "SUCCEEDED")
    status = sandbox.wait_for_phase("Complete")
    assert sandbox.condition("Complete") == "True"
    assert sandbox.condition("Running") == "False"
    assert (status["failures"], status["disruptions"]) == (0, 0)
    assert status["observedGeneration"] == sandbox.job()["metadata"]["generation"]
    assert status["completionTime"]
    reasons = sandbox.events()
    assert len(reasons) == len(set(reasons))
    assert {"AttemptStarted", "Running", "AttemptSucceeded", "Complete"} == set(reasons)
    # KubeRay deletes the cluster; the RayJob stays for inspection.
    wait_for(lambda: not sandbox.made(PODS), 60)
    assert sandbox.made(RAY_JOBS)


@sandboxed
def a_failed_attempt_is_followed_by_the_next(sandbox: JobSandbox) -> None:
    sandbox.apply()
    sandbox.wait_for_attempt(1)
    (first,) = sandbox.made(CONFIG_MAPS)
    sandbox.end(1, "FAILED", 'trace\nTAPER_ERROR {"reason": "RewardFailed", "message": "score() raised"}')
    status = sandbox.wait_for_phase("Backoff")
    assert status["attempts"][0]["reason"] == "RewardFailed"
    assert status["attempts"][0]["message"] == "score() raised"
    status = sandbox.wait_for_attempt(2)
    assert (status["failures"], status["disruptions"]) == (1, 0)
    (second,) = sandbox.made(CONFIG_MAPS)
    assert [directory(each)[-5:] for each in (first, second)] == ["-0001", "-0002"]
    assert {each["metadata"]["labels"]["taper.dev/attempt"] for each in sandbox.made(PODS)} == {"2"}
    sandbox.end(2, "SUCCEEDED")
    sandbox.wait_for_phase("Complete")


@sandboxed
def a_job_whose_budget_is_spent_has_failed(sandbox: JobSandbox) -> None:
    sandbox.apply(changes={"spec.backoffLimit": 0})
    sandbox.wait_for_attempt(1)
    sandbox.end(1, "FAILED", "it broke")
    sandbox.wait_for_phase("Failed")
    assert sandbox.reason("Failed") == "BackoffLimitExceeded"


@sandboxed
def a_job_that_a_user_stops_is_not_complete(sandbox: JobSandbox) -> None:
    sandbox.apply(changes={"spec.backoffLimit": 0})
    sandbox.wait_for_attempt(1)
    sandbox.end(1, "STOPPED")
    sandbox.wait_for_phase("Failed")
    assert sandbox.condition("Complete") == "False"


@sandboxed
def a_job_past_its_deadline_has_failed(sandbox: JobSandbox) -> None:
    sandbox.apply(changes={"spec.activeDeadlineSeconds": 5})
    status = sandbox.wait_for_phase("Failed")
    assert sandbox.reason("Failed") == "DeadlineExceeded"
    assert status["failures"] == 0
    wait_for(lambda: not sandbox.made(PODS), 60)


@sandboxed
def an_ended_job_is_deleted_after_its_ttl(sandbox: JobSandbox) -> None:
    sandbox.apply(changes={"spec.ttlSecondsAfterFinished": 2})
    sandbox.wait_for_attempt(1)
    sandbox.end(1, "SUCCEEDED")
    wait_for(lambda: not sandbox.remains(), 60, why=sandbox.remains)
    assert sandbox.has_claim()


# -- what its author does --------------------------------------------------------------------


@sandboxed
def a_suspended_job_releases_its_pods_and_resumes(sandbox: JobSandbox) -> None:
    sandbox.apply()
    sandbox.wait_for_attempt(1)
    sandbox.apply(changes={"spec.suspend": True})
    sandbox.wait_for_status(lambda status: sandbox.condition("Suspended") == "True")
    assert sandbox.made(PODS) == sandbox.made(RAY_JOBS) == sandbox.made(RAY_CLUSTERS) == []
    sandbox.apply(changes={"spec.suspend": False})
    status = sandbox.wait_for_attempt(2)
    assert (status["failures"], status["disruptions"]) == (0, 0)
    assert status["attempts"][0]["outcome"] == "Suspended"


@sandboxed
def a_secret_that_is_not_allowed_is_reported_and_nothing_created(sandbox: JobSandbox) -> None:
    secret = {"name": "HF_TOKEN", "secret": {"name": "unknown", "key": "token"}}
    sandbox.apply(changes={"spec.env": [secret], "spec.suspend": True})
    sandbox.wait_for_status(lambda status: sandbox.condition("Validated") == "False")
    assert sandbox.reason("Validated") == "NotAllowed"
    sandbox.apply(changes={"spec.env": [secret | {"secret": {"name": "known", "key": "token"}}]})
    sandbox.wait_for_ray_job(1)
    assert len([each for each in sandbox.events() if each == "NotAllowed"]) == 1


@sandboxed
def a_deleted_job_leaves_nothing_but_its_claim(sandbox: JobSandbox) -> None:
    moments: dict[str, Callable[[str], object]] = {
        f"{sandbox.name}-at-once": lambda name: None,
        f"{sandbox.name}-when-made": lambda name: sandbox.wait_for_ray_job(1, name=name),
        f"{sandbox.name}-starting": lambda name: wait_for(lambda: sandbox.pods(1, name=name)),
        f"{sandbox.name}-running": lambda name: sandbox.wait_for_phase("Running", name=name),
        f"{sandbox.name}-complete": lambda name: (
            sandbox.wait_for_phase("Running", name=name),
            sandbox.end(1, "SUCCEEDED", name=name),
            sandbox.wait_for_phase("Complete", name=name),
        ),
        f"{sandbox.name}-waiting": lambda name: (
            sandbox.wait_for_phase("Running", name=name),
            sandbox.end(1, "FAILED", name=name),
            sandbox.wait_for_phase("Backoff", name=name),
        ),
    }
    for _ in range(2):
        sandbox.new_node()
    for name in moments:
        sandbox.apply(name)
    for name, moment in moments.items():
        moment(name)
        sandbox.delete_job(name)
    for name in moments:
        wait_for(lambda name=name: not sandbox.remains(name), 60, why=lambda name=name: sandbox.remains(name))
    assert all(sandbox.has_claim(name) for name in list(moments)[1:])


@sandboxed
def a_new_job_of_an_old_name_waits_for_leftover_pods(sandbox: JobSandbox) -> None:
    sandbox.apply()
    sandbox.wait_for_attempt(1)
    old = {pod["metadata"]["uid"] for pod in sandbox.made(PODS)}
    sandbox.delete_job()
    wait_for(lambda: sandbox.cluster.found(RLHF_JOBS, sandbox.namespace, sandbox.name) is None)
    sandbox.apply()
    sandbox.wait_for_attempt(1)
    assert not old & {pod["metadata"]["uid"] for pod in sandbox.made(PODS)}


# -- steps of scenarios ------------------------------------------------------------------------


def directory(config_map: KubeObject) -> str:
    """Where an attempt saves."""
    job = yaml.safe_load(config_map["data"]["job.yaml"])
    return str(job["spec"]["training"]["checkpoints"]["directory"])


@each_scenario_of(__name__)
def test_scenario(scenario_results: dict[str, Future[None]], scenario_name: str) -> None:
    scenario_results[scenario_name].result(RESULT_SECONDS)


def test_kuberay_logged_no_error(scenario_results: dict[str, Future[None]], kuberay: KubeRay) -> None:
    assert kuberay.failures == []
