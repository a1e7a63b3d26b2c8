"""What becomes of jobs on a cluster, when all goes well and when their author or their code does not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import yaml

from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.kinds import CONFIG_MAPS, PODS, RAY_CLUSTERS, RAY_JOBS, RLHF_JOBS

from ..conftest import KubeRay
from ..control_plane.cluster import wait_for
from ..scenarios.job_sandbox import Scene, scene
from ..scenarios.scenarios import RESULT_SECONDS, each_of

# -- ends ------------------------------------------------------------------------------------


@scene
def a_job_runs_and_is_complete(scene: Scene) -> None:
    scene.apply()
    scene.wait_for_phase("Running")
    for kind in ("Validated", "Admitted", "ClusterReady", "Running"):
        assert scene.condition(kind) == "True", kind
    assert scene.condition("Degraded") == "False"
    scene.end(1, "SUCCEEDED")
    status = scene.wait_for_phase("Complete")
    assert scene.condition("Complete") == "True"
    assert scene.condition("Running") == "False"
    assert (status["failures"], status["disruptions"]) == (0, 0)
    assert status["observedGeneration"] == scene.job()["metadata"]["generation"]
    assert status["completionTime"]
    reasons = scene.events()
    assert len(reasons) == len(set(reasons))
    assert {"AttemptStarted", "Running", "AttemptSucceeded", "Complete"} == set(reasons)
    # The cluster goes by itself, the RayJob stays to be looked at.
    wait_for(lambda: not scene.made(PODS), 60)
    assert scene.made(RAY_JOBS)


@scene
def a_failed_attempt_is_followed_by_the_next(scene: Scene) -> None:
    scene.apply()
    scene.wait_for_attempt(1)
    (first,) = scene.made(CONFIG_MAPS)
    scene.end(1, "FAILED", 'trace\nTAPER_ERROR {"reason": "RewardFailed", "message": "score() raised"}')
    status = scene.wait_for_phase("Backoff")
    assert status["attempts"][0]["reason"] == "RewardFailed"
    assert status["attempts"][0]["message"] == "score() raised"
    status = scene.wait_for_attempt(2)
    assert (status["failures"], status["disruptions"]) == (1, 0)
    (second,) = scene.made(CONFIG_MAPS)
    assert [directory(each)[-5:] for each in (first, second)] == ["-0001", "-0002"]
    assert {each["metadata"]["labels"]["taper.dev/attempt"] for each in scene.made(PODS)} == {"2"}
    scene.end(2, "SUCCEEDED")
    scene.wait_for_phase("Complete")


@scene
def a_job_whose_budget_is_spent_has_failed(scene: Scene) -> None:
    scene.apply(changes={"spec.backoffLimit": 0})
    scene.wait_for_attempt(1)
    scene.end(1, "FAILED", "it broke")
    scene.wait_for_phase("Failed")
    assert scene.reason("Failed") == "BackoffLimitExceeded"


@scene
def a_job_that_is_stopped_by_hand_is_not_complete(scene: Scene) -> None:
    scene.apply(changes={"spec.backoffLimit": 0})
    scene.wait_for_attempt(1)
    scene.end(1, "STOPPED")
    scene.wait_for_phase("Failed")
    assert scene.condition("Complete") == "False"


@scene
def a_job_past_its_deadline_has_failed(scene: Scene) -> None:
    scene.apply(changes={"spec.activeDeadlineSeconds": 5})
    status = scene.wait_for_phase("Failed")
    assert scene.reason("Failed") == "DeadlineExceeded"
    assert status["failures"] == 0
    wait_for(lambda: not scene.made(PODS), 60)


@scene
def a_job_goes_after_its_time(scene: Scene) -> None:
    scene.apply(changes={"spec.ttlSecondsAfterFinished": 2})
    scene.wait_for_attempt(1)
    scene.end(1, "SUCCEEDED")
    wait_for(lambda: not scene.remains(), 60, why=scene.remains)
    assert scene.has_claim()


# -- what its author does --------------------------------------------------------------------


@scene
def a_suspended_job_lets_go_and_resumes(scene: Scene) -> None:
    scene.apply()
    scene.wait_for_attempt(1)
    scene.apply(changes={"spec.suspend": True})
    scene.wait_for_status(lambda status: scene.condition("Suspended") == "True")
    assert scene.made(PODS) == scene.made(RAY_JOBS) == scene.made(RAY_CLUSTERS) == []
    scene.apply(changes={"spec.suspend": False})
    status = scene.wait_for_attempt(2)
    assert (status["failures"], status["disruptions"]) == (0, 0)
    assert status["attempts"][0]["outcome"] == "Suspended"


@scene
def a_secret_that_is_not_allowed_is_told_and_nothing_made(scene: Scene) -> None:
    secret = {"name": "HF_TOKEN", "secret": {"name": "unknown", "key": "token"}}
    scene.apply(changes={"spec.env": [secret], "spec.suspend": True})
    scene.wait_for_status(lambda status: scene.condition("Validated") == "False")
    assert scene.reason("Validated") == "NotAllowed"
    scene.apply(changes={"spec.env": [secret | {"secret": {"name": "known", "key": "token"}}]})
    scene.wait_for_ray_job(1)
    assert len([each for each in scene.events() if each == "NotAllowed"]) == 1


@scene
def a_deleted_job_leaves_nothing_but_its_claim(scene: Scene) -> None:
    moments: dict[str, Callable[[str], object]] = {
        f"{scene.name}-at-once": lambda name: None,
        f"{scene.name}-when-made": lambda name: scene.wait_for_ray_job(1, name=name),
        f"{scene.name}-starting": lambda name: wait_for(lambda: scene.pods(1, name=name)),
        f"{scene.name}-running": lambda name: scene.wait_for_phase("Running", name=name),
        f"{scene.name}-complete": lambda name: (
            scene.wait_for_phase("Running", name=name),
            scene.end(1, "SUCCEEDED", name=name),
            scene.wait_for_phase("Complete", name=name),
        ),
        f"{scene.name}-waiting": lambda name: (
            scene.wait_for_phase("Running", name=name),
            scene.end(1, "FAILED", name=name),
            scene.wait_for_phase("Backoff", name=name),
        ),
    }
    for _ in range(2):
        scene.new_node()
    for name in moments:
        scene.apply(name)
    for name, moment in moments.items():
        moment(name)
        scene.delete_job(name)
    for name in moments:
        wait_for(lambda name=name: not scene.remains(name), 60, why=lambda name=name: scene.remains(name))
    assert all(scene.has_claim(name) for name in list(moments)[1:])


@scene
def a_new_job_of_an_old_name_waits_for_what_is_left(scene: Scene) -> None:
    scene.apply()
    scene.wait_for_attempt(1)
    old = {pod["metadata"]["uid"] for pod in scene.made(PODS)}
    scene.delete_job()
    wait_for(lambda: scene.cluster.found(RLHF_JOBS, scene.namespace, scene.name) is None)
    scene.apply()
    scene.wait_for_attempt(1)
    assert not old & {pod["metadata"]["uid"] for pod in scene.made(PODS)}


# -- steps of scenarios ------------------------------------------------------------------------


def directory(config_map: KubeObject) -> str:
    """Where an attempt saves."""
    job = yaml.safe_load(config_map["data"]["job.yaml"])
    return str(job["spec"]["training"]["checkpoints"]["directory"])


@each_of(__name__)
def test_scenario(played: dict[str, Future[None]], scenario_name: str) -> None:
    played[scenario_name].result(RESULT_SECONDS)


def test_kuberay_met_no_error(played: dict[str, Future[None]], kuberay: KubeRay) -> None:
    assert kuberay.failures == []
