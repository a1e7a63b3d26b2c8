"""Jobs as an API server gives them, and what the operator reads off them."""

from __future__ import annotations

from typing import Any

import pytest

from taper_api import JobError, job_of_resource, parse_job
from taper_api.base.quantity import bytes_of, cpus_of
from taper_api.job.secret_reference import secret_references

from .rule_violations import FULL, broken


def test_fields_that_the_server_adds_are_left_out() -> None:
    added = {"uid": "1", "resourceVersion": "7", "generation": 1, "managedFields": [], "finalizers": ["a"]}
    resource = broken({"status": {"phase": "Running"}, "metadata": FULL["metadata"] | added})
    assert job_of_resource(resource) == job_of_resource(FULL)


@pytest.mark.parametrize("resource", [{}, {"metadata": None}, {"metadata": "a", "spec": 1}])
def test_an_invalid_resource_is_refused(resource: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        job_of_resource(resource)


def test_secrets() -> None:
    env = [{"name": "A", "value": "a"}, {"name": "HF_TOKEN", "secret": {"name": "hub", "key": "token"}}]
    spec = job_of_resource(broken({"spec.env": env, "spec.image": {"pullSecrets": ["registry"]}})).spec
    assert [(secret.path, secret.name) for secret in secret_references(spec)] == [
        ("spec.image.pullSecrets[0]", "registry"),
        ("spec.env[1].secret.name", "hub"),
    ]


def test_every_field_that_names_a_secret_is_known() -> None:
    """A field added without `secret_references` would let an author read any secret."""
    from .test_crd import JOB, nodes

    named = {path for path, _ in nodes(JOB["properties"]["spec"], "spec") if "secret" in path.lower()}
    assert named == {
        "spec.image.pullSecrets",
        "spec.image.pullSecrets[]",
        "spec.env[].secret",
        "spec.env[].secret.name",
        "spec.env[].secret.key",
    }


FORBIDDEN = [
    {"spec.nodePools.gpu.overlay": {"hostNetwork": True}},
    {"spec.nodePools.gpu.overlay": {"securityContext": {"privileged": True}}},
    {"spec.nodePools.gpu.overlay": {"serviceAccountName": "admin"}},
    {"spec.nodePools.gpu.overlay": {"containers": []}},
    {"spec.nodePools.gpu.overlay": {"runAsUser": 0}},
    {"spec.nodePools.gpu.overlay": {"annotations": {"cdi.k8s.io/a": "vendor.com/device=all"}}},
    {"spec.nodePools.gpu.overlay": {"labels": {"kueue.x-k8s.io/queue-name": "a"}}},
    {"spec.nodePools.gpu.tolerations": [{"operator": "Exists"}]},
    {"spec.nodePools.gpu.rdma": {"resource": "smarter-devices/fuse"}},
    {"spec.volumes.data": [{"hostPath": "/", "mountPath": "/mnt/a"}]},
    {"spec.volumes.data": [{"claimName": "a", "mountPath": "/etc"}]},
    {"spec.volumes.data": [{"claimName": "a", "mountPath": "/mnt/../etc"}]},
    {"spec.volumes.data": [{"claimName": "a", "mountPath": "/mnt/a", "subPath": "../b"}]},
    {"spec.env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
]


@pytest.mark.parametrize("changes", FORBIDDEN, ids=str)
def test_no_field_gives_more_rights_than_the_operator_grants(changes: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        job_of_resource(broken(changes))


def test_defaults_follow_from_other_fields() -> None:
    spec = job_of_resource(broken({"spec.nodePools": {}})).spec
    assert (spec.gpus_per_node, spec.gpu_pool_cpu) == (4, "16")
    assert spec.node_pools.gpu.shared_memory_bytes == 32 * 2**30
    assert job_of_resource(broken({"spec.nodePools": {"gpu": {"gpusPerNode": 0}}})).spec.gpus_per_node == 0


@pytest.mark.parametrize("cpu", [12, "12", "12000m", "12.0"])
def test_quantities(cpu: int | str) -> None:
    spec = job_of_resource(broken({"spec.nodePools.gpu.cpu": cpu})).spec
    assert cpus_of(spec.gpu_pool_cpu) == 12
    assert (bytes_of("2Gi"), bytes_of("3M")) == (2**31, 3_000_000)


def test_a_wrong_key_of_a_map_is_reported_with_its_path() -> None:
    changes = {"spec.nodePools.gpu.nodeSelector": {"not a key": "a"}}
    with pytest.raises(JobError) as caught:
        job_of_resource(broken(changes))
    assert caught.value.problems[0].path == "spec.nodePools.gpu.nodeSelector['not a key']"


def test_null_counts_as_left_out() -> None:
    text = '{"spec": {"rollout": {"mode": null}}}'
    with pytest.raises(JobError) as caught:
        parse_job(text, "job.yaml")
    assert "spec.rollout.mode" not in {problem.path for problem in caught.value.problems}
    assert job_of_resource(broken({"spec.rollout.mode": None})).spec.rollout.mode == "enforce"
