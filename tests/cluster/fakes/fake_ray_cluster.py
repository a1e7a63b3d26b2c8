"""KubeRay's part about RayClusters, as `raycluster_controller.go` of 1.7.0 has it: pods are made from the
templates, recreated where some are gone, and counted in the status. `ready` is never unset.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
from datetime import UTC, datetime
from typing import Any

from taper_operator.kube.client import ApiServer
from taper_operator.kube.errors import NotFound
from taper_operator.kube.informer.cache import ObjectCache
from taper_operator.kube.resource import KubeObject, ObjectKey, key_of
from taper_operator.manifests.kinds import PODS, RAY_CLUSTERS

CLUSTER_LABEL = "ray.io/cluster"
NO_HEAD_RESTART = "ray.io/disable-provisioned-head-restart"
_HEAD_GROUP = "headgroup"


class FakeRayCluster:
    """See the module's docstring. pods: a cache of all pods of RayClusters, by their cluster"""

    def __init__(self, api: ApiServer, pods: ObjectCache) -> None:
        self._api = api
        self._pods = pods

    def reconcile(self, cluster: KubeObject) -> None:
        """Raises ApiError."""
        if cluster["metadata"].get("deletionTimestamp"):
            return
        pods = self._pods.of(key_of(cluster))
        if _missing(cluster, pods) or any(_is_over(pod) for pod in pods):
            # The cache may not have the newest pods yet.
            pods = self._listed(cluster)
            self._make_right(cluster, pods)
        self._write_status(cluster, pods)

    def _listed(self, cluster: KubeObject) -> list[KubeObject]:
        namespace, name = key_of(cluster)
        return self._api.list(PODS, namespace=namespace, label_selector=f"{CLUSTER_LABEL}={name}").items

    def _make_right(self, cluster: KubeObject, pods: list[KubeObject]) -> None:
        over = [pod for pod in pods if _is_over(pod)]
        for pod in over:
            if not pod["metadata"].get("deletionTimestamp"):
                self._delete(pod)
        if over:
            return
        for group, template, number in _missing(cluster, pods):
            for _ in range(number):
                self._api.create(PODS, _pod(cluster, group, template))

    def _delete(self, pod: KubeObject) -> None:
        with contextlib.suppress(NotFound):
            self._api.delete(PODS, key_of(pod), uid=pod["metadata"]["uid"])

    def _write_status(self, cluster: KubeObject, pods: list[KubeObject]) -> None:
        before = cluster.get("status", {})
        status = _status(cluster, pods)
        if status != before:
            self._api.replace(RAY_CLUSTERS, cluster | {"status": status}, subresource="status")


def is_ready(pod: KubeObject) -> bool:
    """Whether a pod runs and is ready."""
    status = pod.get("status", {})
    ready = [each["status"] for each in status.get("conditions", []) if each["type"] == "Ready"]
    return status.get("phase") == "Running" and ready == ["True"]


def _is_over(pod: KubeObject) -> bool:
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def _missing(cluster: KubeObject, pods: list[KubeObject]) -> list[tuple[str, KubeObject, int]]:
    """Group, template and number of the pods that are yet to be made. A pod that is going counts as there."""
    spec = cluster["spec"]
    wanted = [(_HEAD_GROUP, spec["headGroupSpec"]["template"], 1)]
    wanted += [(each["groupName"], each["template"], each["replicas"]) for each in spec["workerGroupSpecs"]]
    there = [pod["metadata"]["labels"]["ray.io/group"] for pod in pods]
    missing = [(group, template, number - there.count(group)) for group, template, number in wanted]
    annotations = cluster["metadata"].get("annotations", {})
    is_headless = _HEAD_GROUP not in there and _is_provisioned(cluster)
    if is_headless and annotations.get(NO_HEAD_RESTART) == "true":
        return []
    return [each for each in missing if each[2] > 0]


def _is_provisioned(cluster: KubeObject) -> bool:
    conditions = cluster.get("status", {}).get("conditions", [])
    return any(each["type"] == "RayClusterProvisioned" and each["status"] == "True" for each in conditions)


def _pod(cluster: KubeObject, group: str, template: KubeObject) -> KubeObject:
    metadata = cluster["metadata"]
    kind = "head" if group == _HEAD_GROUP else "worker"
    own = {
        "ray.io/is-ray-node": "yes",
        "ray.io/identifier": f"{metadata['name']}-{kind}",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    fixed = {CLUSTER_LABEL: metadata["name"], "ray.io/node-type": kind, "ray.io/group": group}
    pod = copy.deepcopy(template)
    pod["metadata"] = pod.get("metadata", {}) | {
        "name": f"{metadata['name'][:50]}-{kind}-{name_suffix()}",
        "namespace": metadata["namespace"],
        "labels": own | template.get("metadata", {}).get("labels", {}) | fixed,
        "ownerReferences": [
            {
                "apiVersion": RAY_CLUSTERS.api_version,
                "kind": RAY_CLUSTERS.kind,
                "name": metadata["name"],
                "uid": metadata["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod"} | pod


def _status(cluster: KubeObject, pods: list[KubeObject]) -> dict[str, Any]:
    before = cluster.get("status", {})
    groups = cluster["spec"]["workerGroupSpecs"]
    heads = [pod for pod in pods if pod["metadata"]["labels"]["ray.io/node-type"] == "head"]
    workers = [pod for pod in pods if pod not in heads]
    desired = sum(group["replicas"] for group in groups)
    is_whole = bool(pods) and all(is_ready(pod) for pod in pods)
    ready = sum(is_ready(pod) for pod in workers)
    status = {
        "observedGeneration": cluster["metadata"].get("generation", 1),
        "desiredWorkerReplicas": desired,
        "minWorkerReplicas": sum(group["minReplicas"] for group in groups),
        "maxWorkerReplicas": sum(group["maxReplicas"] for group in groups),
        "readyWorkerReplicas": ready,
        "availableWorkerReplicas": sum(pod.get("status", {}).get("phase") == "Running" for pod in workers),
    }
    if before.get("state") or (is_whole and len(pods) == desired + 1):
        status["state"] = "ready"
    is_provisioned = _is_provisioned(cluster) or is_whole
    status["conditions"] = [
        _condition(before, "HeadPodReady", *_head_condition(heads)),
        _condition(
            before,
            "RayClusterProvisioned",
            is_provisioned,
            "AllPodRunningAndReadyFirstTime" if is_provisioned else "RayClusterPodsProvisioning",
        ),
    ]
    return status


def _head_condition(heads: list[KubeObject]) -> tuple[bool, str]:
    if not heads:
        return False, "HeadPodNotFound"
    return (True, "HeadPodRunningAndReady") if is_ready(heads[0]) else (False, "ContainersNotReady")


def _condition(before: dict[str, Any], kind: str, holds: bool, reason: str) -> dict[str, Any]:
    reported = {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": ""}
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for each in before.get("conditions", []):
        if each["type"] == kind and each["status"] == reported["status"]:
            since = each["lastTransitionTime"]
    return reported | {"lastTransitionTime": since}


def name_suffix() -> str:
    """As Kubernetes ends the names that it makes."""
    return "".join(secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(5))


def ray_job_key(cluster: ObjectKey) -> ObjectKey:
    """Of the RayJob that a RayCluster was made for."""
    return ObjectKey(cluster.namespace, cluster.name.rpartition("-")[0])
