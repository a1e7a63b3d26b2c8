"""`spec.nodePools`: the pods of a job on a cluster.

There is one GPU pool: VeRL trains and generates on the same GPUs, and has no setting for two.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taper_api.base.block import Block
from taper_api.base.kubernetes_names import DnsSubdomain, LabelValue, NodeLabels
from taper_api.base.quantity import Bytes, Cpu, bytes_of
from taper_api.pods.affinity import Affinity
from taper_api.pods.pod_overlay import PodOverlay
from taper_api.pods.toleration import Toleration
from taper_api.pods.topology import Topology

# VeRL asks Ray for three CPUs with each GPU.
CPUS_PER_GPU = 3
# The default of a pod: one more for each rank, for processes that Ray does not count.
CPUS_PER_RANK = 4


class Rdma(Block):
    """Network devices through which GPUs of different nodes reach each other's memory."""

    resource: Annotated[
        str,
        Field(max_length=128, pattern=r"^(rdma/[a-z0-9]([-a-z0-9._]*[a-z0-9])?|vpc\.amazonaws\.com/efa)$"),
    ] = Field(description="Name of the resource, `rdma/...` or `vpc.amazonaws.com/efa`.")
    count: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Devices of a pod.")
    ipc_lock: bool = Field(
        default=True,
        description="Add the capability IPC_LOCK, without which memory cannot be registered; the operator's "
        "settings must allow it.",
    )


class Pool(Block):
    """Fields of both pools."""

    cpu: Cpu | None = Field(default=None, description="CPUs of a pod, as a Kubernetes quantity.")
    memory: Bytes = Field(default="16Gi", description="Memory of a pod, such as 16Gi.")
    shared_memory: Bytes | None = Field(
        default=None, description="Size of /dev/shm, which is part of the memory. Default: a quarter of it."
    )
    ephemeral_storage: Bytes | None = Field(
        default=None, description="Local disk of a pod. Default: no request."
    )
    node_selector: NodeLabels = Field(default={}, description="Labels that a node must have.")
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False, max_length=16)] = Field(
        default=(), description="Taints that the pods tolerate."
    )
    affinity: Affinity | None = Field(default=None, description="Where the pods may run.")
    topology: Topology | None = Field(
        default=None, description="How close to each other the pods run; needs `spec.kueue`."
    )
    priority_class_name: DnsSubdomain | None = Field(
        default=None, description="PriorityClass of the pods; not one of the system's."
    )
    runtime_class_name: DnsSubdomain | None = Field(default=None, description="RuntimeClass of the pods.")
    overlay: PodOverlay = Field(default=PodOverlay(), description="Further properties of the pods.")

    @property
    def shared_memory_bytes(self) -> int:
        return bytes_of(self.shared_memory) if self.shared_memory else bytes_of(self.memory) // 4


class HeadPool(Pool):
    """The Ray head, which runs the job's driver."""

    cpu: Cpu | None = Field(default="4", description="CPUs of the pod, as a Kubernetes quantity.")


class GpuPool(Pool):
    """The pods that train and generate."""

    cpu: Cpu | None = Field(
        default=None,
        description="CPUs of a pod: three or more for each GPU. Default: four for each rank.",
    )
    memory: Bytes = Field(default="128Gi", description="Memory of a pod, such as 512Gi.")
    gpu_type: LabelValue | None = Field(
        default=None, description="Value of the node label that names the GPU. Default: any."
    )
    gpus_per_node: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="GPUs of a pod; equals `spec.training.ranks`, which is the default. With 0 the ranks are "
        "CPU processes.",
    )
    nodes: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Number of pods; equals `spec.training.nodes`, which is the default.",
    )
    rdma: Rdma | None = Field(
        default=None, description="Network devices through which GPUs of different nodes reach each other."
    )


class NodePools(Block):
    """The job's pods on a cluster. `taper run` reads `startupTimeoutSeconds` only."""

    head: HeadPool = HeadPool()
    gpu: GpuPool = GpuPool()
    startup_timeout_seconds: int = Field(
        default=1800,
        ge=60,
        le=86400,
        description="How long an attempt waits for all its pods, and `taper run` on a Ray cluster for the "
        "job's GPUs, before it fails.",
    )
