"""The security contexts of a job's pods: Kubernetes' restricted profile, whatever the job requests.

Invariants (asserted by `tests/operator/manifests/test_pod_template.py`):
- every container meets the restricted profile;
- the one exception is IPC_LOCK, for pods with RDMA of a job that requests it, if `PodPolicy` allows it.
"""

from __future__ import annotations

from taper_api.pods.pod_overlay import PodOverlay
from taper_operator.kube.resource import KubeObject


def pod_security_context(overlay: PodOverlay) -> KubeObject:
    """For a pod. Ids start at 1: never root."""
    ids = {
        "runAsUser": overlay.run_as_user,
        "runAsGroup": overlay.run_as_group,
        "fsGroup": overlay.fs_group,
        "supplementalGroups": list(overlay.supplemental_groups) or None,
    }
    given = {name: value for name, value in ids.items() if value is not None}
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}} | given


def container_security_context(*, locks_memory: bool = False) -> KubeObject:
    """For a container."""
    capabilities: KubeObject = {"drop": ["ALL"]}
    if locks_memory:
        capabilities["add"] = ["IPC_LOCK"]
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "runAsNonRoot": True,
        "capabilities": capabilities,
    }
