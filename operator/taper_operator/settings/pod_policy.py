"""What the operator's settings say about all jobs' pods, and which jobs they refuse.

The operator creates pods on behalf of whoever may create an RLHFJob. What such a user could not do
alone, the settings must therefore allow by name: the use of secrets, and the capability IPC_LOCK.

Invariant (asserted by `tests/operator/settings/test_pod_policy.py`): a job whose every secret is listed, and
that locks memory only where that is allowed, is never refused; any other is, and nothing is created for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from taper_api import Problem
from taper_api.job.secret_reference import secret_references
from taper_api.job.spec import RLHFJobSpec
from taper_operator.settings.parsing import (
    ALL,
    NO_FILE,
    GraceSeconds,
    ImageName,
    Namespace,
    QualifiedName,
    ReportUrl,
    Secrets,
    Trusted,
    YesOrNo,
)
from taper_operator.settings.setting import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPolicy:
    """What the settings say about all jobs' pods. Each field is a setting."""

    image: Annotated[ImageName, Setting("image of jobs that name none")] = ""
    allowed_secrets: Annotated[
        Secrets, Setting("secrets that jobs may name, separated by commas, or * for all of their namespace")
    ] = frozenset()
    allows_ipc_lock: Annotated[
        YesOrNo,
        Setting(
            "whether pods with RDMA may have the capability IPC_LOCK: true or false",
            flag="--allow-ipc-lock",
        ),
    ] = False
    gpu_resource: Annotated[QualifiedName, Setting("resource of a GPU")] = "nvidia.com/gpu"
    gpu_label: Annotated[QualifiedName, Setting("node label that names the type of a GPU")] = (
        "nvidia.com/gpu.product"
    )
    kuberay_namespace: Annotated[
        Namespace, Setting("namespace of KubeRay's operator, which may connect to heads")
    ] = "kuberay-system"
    prometheus_namespace: Annotated[
        Namespace, Setting("namespace of Prometheus, which may scrape the jobs' metrics")
    ] = "monitoring"
    grace_seconds: Annotated[
        GraceSeconds, Setting("termination grace period of pods for which the job sets none")
    ] = 60
    report_url: Annotated[
        ReportUrl, Setting("URL at which jobs reach --report-address; empty: jobs do not report")
    ] = ""
    report_ca: Annotated[
        Trusted, Setting("file with the CA certificates by which jobs verify the operator")
    ] = NO_FILE

    def refusals(self, spec: RLHFJobSpec) -> Iterator[Problem]:
        """What a job asks for and these settings do not allow."""
        for secret in secret_references(spec):
            if ALL not in self.allowed_secrets and secret.name not in self.allowed_secrets:
                yield Problem(
                    path=secret.path,
                    message=f"the operator's settings do not allow the secret {secret.name}",
                    remedy="ask for it to be added to --allowed-secrets, or use another secret",
                )
        if locks_memory(spec) and not self.allows_ipc_lock:
            yield Problem(
                path="spec.nodePools.gpu.rdma.ipcLock",
                message="the operator's settings do not allow the capability IPC_LOCK",
                remedy="set it to false, or ask for --allow-ipc-lock",
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
