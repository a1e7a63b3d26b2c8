"""Pods of jobs: restricted, whatever a job says, and with what a job asks for."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Any

from hypothesis import given

from taper_api.base.quantity import cpus_of
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.pod_template import gpu_template, head_template
from taper_operator.manifests.report_path import job_of_path
from taper_operator.settings.parsing import TrustedFile
from taper_operator.settings.pod_policy import locks_memory

from ...api.job_specs import Fields, valid_jobs
from ..job_objects import POLICY, as_served, fields_of, made_for, parsed, pod_templates, resource, secrets_of

VOLUME_KINDS = {"configMap", "emptyDir", "persistentVolumeClaim", "projected"}


def templates_of(obj: KubeObject) -> list[KubeObject]:
    return list(pod_templates(made_for(obj)[-1][1]))


def gpu_of(changes: dict[str, Any]) -> KubeObject:
    job, identity = parsed(resource(changes))
    return gpu_template(job, identity, 1, POLICY)


@given(valid_jobs())
def test_no_job_misuses_the_operators_rights(content: Fields) -> None:
    """Confused deputy: neither the host, nor root, nor another's account, nor a secret that is not named."""
    obj = as_served(content)
    job, identity = parsed(obj)
    for template in templates_of(obj):
        spec = template["spec"]
        assert spec["serviceAccountName"] == identity.shared_name
        assert spec["automountServiceAccountToken"] is False
        assert {
            kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"
        } <= VOLUME_KINDS
        for path, value in fields_of(spec):
            name = path.rpartition(".")[2]
            assert name not in ("hostPath", "hostNetwork", "hostPID", "hostIPC", "hostPort", "hostUsers")
            assert name != "privileged" or value is False
            assert name != "runAsUser" or value > 0
            assert name != "procMount"
            assert ".imagePullSecrets[].name" not in path or value in secrets_of(job)
            assert not path.endswith("secretKeyRef.name") or value in secrets_of(job)
            assert name not in ("secret", "secretName", "secretRef", "envFrom", "initContainers")


@given(valid_jobs())
def test_every_container_meets_the_restricted_profile(content: Fields) -> None:
    obj = as_served(content)
    may_lock = locks_memory(parsed(obj)[0].spec)
    for template in templates_of(obj):
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
            added = context["capabilities"].get("add", [])
            assert added == (["IPC_LOCK"] if may_lock and container["name"] == "ray-worker" else [])


@given(valid_jobs())
def test_a_gpu_has_three_cpus_and_requests_equal_limits(content: Fields) -> None:
    job, identity = parsed(as_served(content))
    for template in (head_template(job, identity, 1, POLICY), gpu_template(job, identity, 1, POLICY)):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    limits = container["resources"]["limits"]
    num_gpus = int(limits.get(POLICY.gpu_resource, 0))
    assert num_gpus == job.spec.gpus_per_node
    assert cpus_of(limits["cpu"]) >= 3 * num_gpus


@given(valid_jobs())
def test_every_mount_has_its_volume_and_a_place_of_its_own(content: Fields) -> None:
    for template in templates_of(as_served(content)):
        spec = template["spec"]
        mounts = [mount for container in spec["containers"] for mount in container.get("volumeMounts", [])]
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        assert [mount["name"] for mount in mounts] == volumes
        assert len(set(volumes)) == len(volumes)
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)


def test_shared_memory_is_a_volume_in_memory_of_a_bounded_size() -> None:
    template = gpu_of({"spec.nodePools": {"gpu": {"memory": "64Gi", "sharedMemory": "16Gi"}}})
    (volume,) = (each for each in template["spec"]["volumes"] if each["name"] == "shared-memory")
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": str(16 * 2**30)}


def test_a_pools_scheduling_fields_are_in_its_pods() -> None:
    pool = {
        "nodeSelector": {"pool": "train"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "gpuType": "H200",
        "runtimeClassName": "nvidia",
        "priorityClassName": "training",
        "topology": {"required": "topology.example/rack"},
    }
    template = gpu_of({"spec.nodePools": {"gpu": pool}, "spec.kueue": {"queueName": "q"}})
    spec = template["spec"]
    assert spec["nodeSelector"] == {"pool": "train", "nvidia.com/gpu.product": "H200"}
    assert spec["tolerations"] == pool["tolerations"]
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("nvidia", "training")
    assert template["metadata"]["annotations"] == {
        "kueue.x-k8s.io/podset-required-topology": "topology.example/rack"
    }


def test_rdma_brings_its_device_and_the_one_capability() -> None:
    template = gpu_of({"spec.nodePools": {"gpu": {"rdma": {"resource": "rdma/hca", "count": 2}}}})
    (container,) = template["spec"]["containers"]
    assert container["resources"]["limits"]["rdma/hca"] == "2"
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]


def test_an_authors_labels_do_not_hide_the_operators() -> None:
    job, identity = parsed(resource({"spec.nodePools": {"head": {"overlay": {"labels": {"team": "a"}}}}}))
    labels = head_template(job, identity, 3, POLICY)["metadata"]["labels"]
    assert labels == {"team": "a", "taper.dev/role": "head"} | identity.attempt_labels(3)


def test_a_value_is_no_reference_to_another_variable() -> None:
    job, identity = parsed(resource({"spec.env": [{"name": "A", "value": "$(TAPER_ATTEMPT)"}]}))
    (container,) = head_template(job, identity, 1, POLICY)["spec"]["containers"]
    assert {"name": "A", "value": "$$(TAPER_ATTEMPT)"} in container["env"]


def test_pods_have_time_to_end() -> None:
    job, identity = parsed(
        resource({"spec.nodePools": {"head": {"overlay": {"terminationGracePeriodSeconds": 600}}}})
    )
    spec = head_template(job, identity, 1, POLICY)["spec"]
    assert spec["terminationGracePeriodSeconds"] == 600
    stop = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert stop == ["ray", "stop", "--grace-period=595"]


REPORTING = replace(
    POLICY, report_url="https://reports.taper-system.svc:8443", report_ca=TrustedFile("ca.crt", "the CA")
)


def variables_of(template: KubeObject) -> dict[str, Any]:
    (container,) = template["spec"]["containers"]
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


@given(valid_jobs())
def test_only_the_heads_pod_can_report_and_only_if_reports_are_enabled(content: Fields) -> None:
    obj = as_served(content)
    identity = parsed(obj)[1]
    for policy in (POLICY, REPORTING):
        *_, (_, config), (_, ray_job) = made_for(obj, 3, policy)
        reports = policy is REPORTING
        assert config["data"].get("report-ca.crt") == ("the CA" if reports else None)
        for index, template in enumerate(pod_templates(ray_job)):
            names = {name for name in variables_of(template) if name.startswith("TAPER_REPORT")}
            projected = [volume for volume in template["spec"].get("volumes", []) if "projected" in volume]
            if index or not reports:
                assert (names, projected) == (set(), [])
                continue
            assert names == {"TAPER_REPORT_URL", "TAPER_REPORT_CA", "TAPER_REPORT_TOKEN"}
            (source,) = projected[0]["projected"]["sources"]
            assert (
                source["serviceAccountToken"]["audience"] == f"taper.dev/rlhfjobs/{identity.uid}/attempts/3"
            )


def test_the_head_has_the_url_token_and_ca_for_reports() -> None:
    job, identity = parsed(resource())
    template = head_template(job, identity, 1, REPORTING)
    reported = variables_of(template)
    key = job_of_path(reported["TAPER_REPORT_URL"].removeprefix(REPORTING.report_url))
    assert key == (identity.namespace, identity.name)
    mounts = {mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
    assert posixpath.dirname(reported["TAPER_REPORT_CA"]) in mounts
    assert posixpath.dirname(reported["TAPER_REPORT_TOKEN"]) in mounts
    assert reported["TAPER_ATTEMPT"] == "1"
