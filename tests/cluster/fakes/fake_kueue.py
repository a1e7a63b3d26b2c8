"""Plays Kueue's part about a RayJob: it lets it go, with node selectors, and suspends it again."""

from __future__ import annotations

from taper_operator.kube.resource import KubeObject, ObjectKey
from taper_operator.manifests.kinds import RAY_JOBS

from ..control_plane.cluster import Cluster


def admit(cluster: Cluster, namespace: str, name: str, node_selector: dict[str, str]) -> None:
    """Let a RayJob go, to nodes with these labels."""

    def change(ray_job: KubeObject) -> None:
        for template in _templates(ray_job):
            template["spec"]["nodeSelector"] = template["spec"].get("nodeSelector", {}) | node_selector
        ray_job["spec"]["suspend"] = False

    cluster.change(RAY_JOBS, ObjectKey(namespace, name), change)


def evict(cluster: Cluster, namespace: str, name: str) -> None:
    """Suspend it, so that another may have its place."""

    def change(ray_job: KubeObject) -> None:
        ray_job["spec"]["suspend"] = True

    cluster.change(RAY_JOBS, ObjectKey(namespace, name), change)


def _templates(ray_job: KubeObject) -> list[KubeObject]:
    spec = ray_job["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
