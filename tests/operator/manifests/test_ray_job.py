"""RayJobs that KubeRay 1.7 takes, for every job."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given

from taper_api.job.attempt_directory import MAX_ATTEMPTS
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.ray_job import ENTRYPOINT, RAY_VERSION
from taper_operator.observation.kuberay_support import kuberay_of

from ...api.admission import errors
from ...api.job_specs import Fields, valid_jobs
from ..job_objects import as_served, made_for, pod_templates, resource
from .kuberay_schema import REPOSITORY, WHY_NOT, rayjob_definition, rayjob_schema


@pytest.fixture(scope="module")
def definition() -> Any:
    return rayjob_definition() or pytest.skip(WHY_NOT)


@pytest.fixture(scope="module")
def schema() -> Any:
    return rayjob_schema() or pytest.skip(WHY_NOT)


def ray_job_of(content: Fields, number: int = 1) -> KubeObject:
    return made_for(as_served(content), number)[-1][1]


@given(content=valid_jobs())
def test_it_is_valid_by_kuberays_crd(schema: Any, content: Fields) -> None:
    assert errors(ray_job_of(content), schema) == []


def test_the_check_by_kuberays_crd_fails_on_a_wrong_object(schema: Any) -> None:
    obj = made_for(resource())[-1][1]
    obj["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplicas"] = "one"
    obj["spec"]["retries"] = 1
    assert len(errors(obj, schema)) == 2


def test_kuberays_own_crd_is_new_enough(definition: Any) -> None:
    assert kuberay_of(definition) == "served"


@given(valid_jobs())
def test_the_rules_of_kuberay_and_kueue(content: Fields) -> None:
    obj = ray_job_of(content, MAX_ATTEMPTS)
    spec = obj["spec"]
    assert len(obj["metadata"]["name"]) <= 47
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert not {"deletionStrategy", "clusterSelector", "managedBy", "activeDeadlineSeconds"} & set(spec)
    assert spec["backoffLimit"] == 0
    assert spec["submissionMode"] in ("HTTPMode", "K8sJobMode")
    assert ("submitterPodTemplate" in spec) == (spec["submissionMode"] == "K8sJobMode")
    groups = spec["rayClusterSpec"]["workerGroupSpecs"]
    for group in groups:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] >= 1
    assert len(list(pod_templates(obj))) <= 18
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert obj["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] == "true"


@given(valid_jobs())
def test_no_text_of_a_job_reaches_a_shell(content: Fields) -> None:
    obj = ray_job_of(content)
    assert obj["spec"]["entrypoint"] == ENTRYPOINT
    assert "runtimeEnvYAML" not in obj["spec"]
    for template in pod_templates(obj):
        for container in template["spec"]["containers"]:
            assert "command" not in container
            assert "args" not in container


@given(valid_jobs())
def test_it_waits_if_and_only_if_the_job_is_queued(content: Fields) -> None:
    obj = ray_job_of(content)
    kueue = content["spec"].get("kueue")
    assert obj["spec"]["suspend"] == (kueue is not None)
    assert obj["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") == (kueue or {}).get("queueName")
    assert obj["metadata"]["labels"].get("kueue.x-k8s.io/priority-class") == (kueue or {}).get(
        "priorityClass"
    )


def test_rays_version_is_the_one_that_is_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"ray[default]=={RAY_VERSION}" in project["optional-dependencies"]["rollout"]


@given(valid_jobs())
def test_ray_has_room_for_the_ranks_and_for_verls_helpers(content: Fields) -> None:
    """VeRL waits for ever for CPUs that Ray does not count."""
    training = content["spec"]["training"]
    cluster = ray_job_of(content)["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["rayStartParams"]
    (group,) = cluster["workerGroupSpecs"]
    assert int(group["rayStartParams"]["num-gpus"]) == training["ranks"]
    assert int(group["rayStartParams"]["num-cpus"]) >= 3 * training["ranks"]
    assert (head["num-gpus"], group["replicas"]) == ("0", training.get("nodes", 1))
    assert int(head["num-cpus"]) >= 12


@given(content=valid_jobs())
def test_no_port_is_there_twice_with_those_that_kuberay_adds(content: Fields) -> None:
    """KubeRay 1.7.0 adds `metrics` to a head without it, and makes a Service of the head's ports."""
    cluster = ray_job_of(content)["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {"metrics": 8080} | {port["name"]: port["containerPort"] for port in head["ports"]}
    assert len(set(ports.values())) == len(ports)
    # Without these two nobody joins, and nobody hands a job in.
    assert (ports["gcs-server"], ports["dashboard"]) == (6379, 8265)
