"""The pods of an attempt: the head, which runs the driver, and the GPU pool, which trains and generates.

A pod is Guaranteed: its requests equal its limits. The kubelet restarts no container: an attempt that lost
one has ended, and the next attempt is a new RayJob.

Invariants (asserted by `tests/operator/manifests/test_pod_template.py`):
- no job gets a host path, a host namespace, a host port, a privileged container, root, another
  ServiceAccount, a token for the API server, or a secret that its own fields do not name;
- a pod of the GPU pool has at least three CPUs for each GPU.
"""

from __future__ import annotations

from typing import Any

from taper_api import RLHFJob
from taper_api.pods.node_pools import Pool
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.attempt_job import metrics_port
from taper_operator.manifests.names import (
    DASHBOARD_PORT,
    GCS_PORT,
    GPU_ROLE,
    HEAD_ROLE,
    JOB_DIRECTORY,
    METRICS_PORT_NAME,
    RAY_METRICS_PORT,
    RAY_METRICS_PORT_NAME,
    REPORT_CA_FILE,
    ROLE_LABEL,
    SUBMITTER_ROLE,
    TOKEN_DIRECTORY,
    TOKEN_FILE,
    JobIdentity,
)
from taper_operator.manifests.pod_security import container_security_context, pod_security_context
from taper_operator.manifests.pod_volumes import pod_volumes, token_volume
from taper_operator.manifests.report_path import report_path
from taper_operator.settings.pod_policy import PodPolicy, locks_memory

_STOP_SECONDS = 5
_SUBMITTER_RESOURCES = {"cpu": "500m", "memory": "512Mi"}
_TOPOLOGY = "kueue.x-k8s.io/podset"


def head_template(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    """The template of the head's pod. Only this one reports: `taper run` runs in it."""
    pool = job.spec.node_pools.head
    container = {
        "name": "ray-head",
        "resources": _resources(pool, cpu=pool.cpu or "4"),
        "ports": [
            {"name": "gcs-server", "containerPort": GCS_PORT},
            {"name": "dashboard", "containerPort": DASHBOARD_PORT},
            {"name": RAY_METRICS_PORT_NAME, "containerPort": RAY_METRICS_PORT},
        ],
        "securityContext": container_security_context(),
    }
    return _template(job, identity, number, policy, pool=pool, role=HEAD_ROLE, container=container)


def gpu_template(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    """The template of the GPU pool's pods."""
    pool = job.spec.node_pools.gpu
    devices: dict[str, str] = {}
    if job.spec.gpus_per_node:
        devices[policy.gpu_resource] = str(job.spec.gpus_per_node)
    if pool.rdma is not None:
        devices[pool.rdma.resource] = str(pool.rdma.count)
    container = {
        "name": "ray-worker",
        "resources": _resources(pool, cpu=job.spec.gpu_pool_cpu, devices=devices),
        "ports": [
            {"name": METRICS_PORT_NAME, "containerPort": metrics_port(job)},
            {"name": RAY_METRICS_PORT_NAME, "containerPort": RAY_METRICS_PORT},
        ],
        "securityContext": container_security_context(locks_memory=locks_memory(job.spec)),
    }
    template = _template(job, identity, number, policy, pool=pool, role=GPU_ROLE, container=container)
    if pool.gpu_type:
        template["spec"].setdefault("nodeSelector", {})[policy.gpu_label] = pool.gpu_type
    return template


def submitter_template(job: RLHFJob, identity: JobIdentity, number: int, policy: PodPolicy) -> KubeObject:
    """The template of the pod that submits the job in K8sJobMode; KubeRay sets its command."""
    container = {
        "name": "ray-job-submitter",
        "resources": {"requests": _SUBMITTER_RESOURCES, "limits": _SUBMITTER_RESOURCES},
        "securityContext": container_security_context(),
    }
    overlay = job.spec.node_pools.head.overlay
    spec = _pod_base(job, identity) | {
        "containers": [container | _image(job, policy)],
        "securityContext": pod_security_context(overlay),
    }
    labels = identity.attempt_labels(number) | {ROLE_LABEL: SUBMITTER_ROLE}
    return {"metadata": {"labels": labels}, "spec": spec}


def _template(
    job: RLHFJob,
    identity: JobIdentity,
    number: int,
    policy: PodPolicy,
    *,
    pool: Pool,
    role: str,
    container: KubeObject,
) -> KubeObject:
    volumes = list(pod_volumes(job, identity, number, pool))
    reports = bool(policy.report_url) and role == HEAD_ROLE
    if reports:
        volumes.append(token_volume(identity, number))
    grace = pool.overlay.termination_grace_period_seconds or policy.grace_seconds
    # KubeRay's own preStop hook allows Ray three seconds.
    stop = ["ray", "stop", f"--grace-period={max(1, grace - _STOP_SECONDS)}"]
    container |= _image(job, policy) | {
        "env": _environment(job, identity, number, policy.report_url if reports else ""),
        "volumeMounts": [volume.mount for volume in volumes],
        "lifecycle": {"preStop": {"exec": {"command": stop}}},
    }
    spec = _pod_base(job, identity) | {
        "containers": [container],
        "volumes": [volume.volume for volume in volumes],
        "securityContext": pod_security_context(pool.overlay),
        "terminationGracePeriodSeconds": grace,
    }
    spec |= _scheduling(pool)
    # Our labels last: the plan finds pods by them, so authors must not override them.
    labels = pool.overlay.labels | identity.attempt_labels(number) | {ROLE_LABEL: role}
    metadata: KubeObject = {"labels": labels}
    annotations = pool.overlay.annotations | _topology(pool)
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


def _image(job: RLHFJob, policy: PodPolicy) -> KubeObject:
    return {"image": job.spec.image.name or policy.image, "imagePullPolicy": job.spec.image.pull_policy}


def _pod_base(job: RLHFJob, identity: JobIdentity) -> KubeObject:
    """The fields that all pods share, including the submitter."""
    base: KubeObject = {
        "serviceAccountName": identity.shared_name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
    }
    if job.spec.image.pull_secrets:
        base["imagePullSecrets"] = [{"name": name} for name in job.spec.image.pull_secrets]
    return base


def _resources(pool: Pool, *, cpu: str, devices: dict[str, str] | None = None) -> KubeObject:
    amounts = {"cpu": cpu, "memory": pool.memory} | (devices or {})
    if pool.ephemeral_storage is not None:
        amounts["ephemeral-storage"] = pool.ephemeral_storage
    return {"requests": amounts, "limits": dict(amounts)}


def _environment(job: RLHFJob, identity: JobIdentity, number: int, report_url: str) -> list[KubeObject]:
    """report_url: empty for pods that do not report"""
    variables: list[KubeObject] = []
    for variable in job.spec.env:
        if variable.secret is not None:
            reference = {"name": variable.secret.name, "key": variable.secret.key}
            variables.append({"name": variable.name, "valueFrom": {"secretKeyRef": reference}})
        else:
            # Kubernetes would otherwise expand `$(X)`.
            variables.append({"name": variable.name, "value": (variable.value or "").replace("$", "$$")})
    ours = {
        "TAPER_JOB": identity.name,
        "TAPER_NAMESPACE": identity.namespace,
        "TAPER_ATTEMPT": str(number),
    }
    if report_url:
        ours |= {
            "TAPER_REPORT_URL": report_url + report_path(identity.namespace, identity.name),
            "TAPER_REPORT_CA": f"{JOB_DIRECTORY}/{REPORT_CA_FILE}",
            "TAPER_REPORT_TOKEN": f"{TOKEN_DIRECTORY}/{TOKEN_FILE}",
        }
    cache = job.spec.volumes.model_cache
    if cache is not None and all(variable.name != "HF_HOME" for variable in job.spec.env):
        ours["HF_HOME"] = cache.mount_path
    return [*variables, *({"name": name, "value": value} for name, value in ours.items())]


def _scheduling(pool: Pool) -> dict[str, Any]:
    dumped = pool.model_dump(
        mode="json",
        by_alias=True,
        exclude_none=True,
        include={"node_selector", "tolerations", "affinity", "priority_class_name", "runtime_class_name"},
    )
    return {name: value for name, value in dumped.items() if value}


def _topology(pool: Pool) -> dict[str, str]:
    """Annotations for Kueue's topology-aware scheduling."""
    if pool.topology is None:
        return {}
    levels = {"required": pool.topology.required, "preferred": pool.topology.preferred}
    return {f"{_TOPOLOGY}-{how}-topology": level for how, level in levels.items() if level}
