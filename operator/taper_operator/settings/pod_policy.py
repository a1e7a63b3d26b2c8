"""What the operator's settings say about all jobs' pods, and which jobs they refuse.

Whoever may create an RLHFJob acts in the operator's name when it makes pods. What their author
could not do alone is therefore allowed by name here, or refused: secrets, and the capability IPC_LOCK.

Invariant (asserted by `tests/operator/settings/test_pod_policy.py`): a job whose every secret is listed, and
that locks memory only where that is allowed, is never refused; any other is, and nothing is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from taper_api import Problem
from taper_api.job.secret_reference import secret_references
from taper_api.job.spec import RLHFJobSpec

ALL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPolicy:
    """image: of jobs that name none
    allowed_secrets: that jobs may name, or `*`
    gpu_resource, gpu_label: resource of a GPU, and node label that tells its type
    kuberay_namespace, prometheus_namespace: who may reach a job's pods from outside the job
    grace_seconds: that pods have to end
    report_url: where jobs report to, without a path; empty where they report nothing
    report_ca: certificates, in PEM form, that who listens there is known by
    """

    image: str = ""
    allowed_secrets: frozenset[str] = frozenset()
    allows_ipc_lock: bool = False
    gpu_resource: str = "nvidia.com/gpu"
    gpu_label: str = "nvidia.com/gpu.product"
    kuberay_namespace: str = "kuberay-system"
    prometheus_namespace: str = "monitoring"
    grace_seconds: int = 60
    report_url: str = ""
    report_ca: str = ""

    def refusals(self, spec: RLHFJobSpec) -> Iterator[Problem]:
        """What in a job these settings do not allow."""
        for secret in secret_references(spec):
            if ALL not in self.allowed_secrets and secret.name not in self.allowed_secrets:
                yield Problem(
                    path=secret.path,
                    message=f"the operator's settings do not allow the secret {secret.name}",
                    remedy="have it added to --allowed-secrets, or use another one",
                )
        if locks_memory(spec) and not self.allows_ipc_lock:
            yield Problem(
                path="spec.nodePools.gpu.rdma.ipcLock",
                message="the operator's settings do not allow the capability IPC_LOCK",
                remedy="set it to false, or have --allow-ipc-lock set",
            )
        if not (spec.image.name or self.image):
            yield Problem(
                path="spec.image.name",
                message="is missing, and the operator's settings have no image",
                remedy="name an image",
            )


def locks_memory(spec: RLHFJobSpec) -> bool:
    """Whether the pods of the GPU pool ask for IPC_LOCK."""
    rdma = spec.node_pools.gpu.rdma
    return rdma is not None and rdma.ipc_lock
