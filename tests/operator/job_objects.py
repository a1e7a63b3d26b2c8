"""Jobs as the operator gets them from an API server, and all that it makes for one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from taper_api import RLHFJob, job_of_resource
from taper_api.job.secret_reference import secret_references
from taper_operator.kube.resource import KubeObject
from taper_operator.manifests.attempt import OwnedObject, attempt_objects, shared_objects
from taper_operator.manifests.names import JobIdentity, identity_of
from taper_operator.settings.pod_policy import PodPolicy

from ..api.rule_violations import broken

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
UID = "0a1b2c3d-0000-4000-8000-000000000001"
POLICY = PodPolicy(image="taper/rollout:1", allowed_secrets=frozenset({"*"}), allows_ipc_lock=True)


def resource(changes: dict[str, Any] | None = None, **metadata: Any) -> KubeObject:
    """An RLHFJob as an API server gives it; changes are at dotted paths."""
    return as_served(broken(changes or {}), **metadata)


def as_served(job: dict[str, Any], **metadata: Any) -> KubeObject:
    """A job's manifest with what an API server adds."""
    served = copy.deepcopy(job)
    added = {"namespace": "team", "uid": UID, "resourceVersion": "7", "generation": 1}
    served["metadata"] = served["metadata"] | added | metadata
    return served


def parsed(obj: KubeObject) -> tuple[RLHFJob, JobIdentity]:
    return job_of_resource(obj), identity_of(obj)


def made_for(obj: KubeObject, number: int = 1, policy: PodPolicy = POLICY) -> list[OwnedObject]:
    """All objects of an attempt."""
    job, identity = parsed(obj)
    return [
        *shared_objects(job, identity, policy, has_pod_monitors=True),
        *attempt_objects(job, identity, number, policy),
    ]


def pod_templates(ray_job: KubeObject) -> Iterator[KubeObject]:
    """Every pod template of a RayJob."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]["template"]
    yield from (group["template"] for group in cluster["workerGroupSpecs"])
    if "submitterPodTemplate" in ray_job["spec"]:
        yield ray_job["spec"]["submitterPodTemplate"]


def fields_of(obj: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of an object by its path, without the indexes of lists."""
    if isinstance(obj, dict):
        for name, value in obj.items():
            yield f"{path}.{name}", value
            yield from fields_of(value, f"{path}.{name}")
    if isinstance(obj, list):
        for item in obj:
            yield from fields_of(item, f"{path}[]")


def secrets_of(job: RLHFJob) -> set[str]:
    return {secret.name for secret in secret_references(job.spec)}
