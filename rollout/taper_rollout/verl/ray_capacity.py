"""Waits until a Ray cluster has enough free resources for a job (VeRL 0.9.1).

VeRL requests one placement group per node, with a GPU and `CPUS_PER_RANK` CPUs per rank. It waits
forever and silently for CPUs that are missing, and does not wait at all for GPUs that are in use
(`ResourcePoolManager._check_resource_available`). So both are checked before VeRL starts.

Invariants (asserted by `tests/rollout/verl/test_ray_capacity.py`):
- the wait ends at its deadline, with an error that says what is available and what is needed;
- it is reported when it starts, and at least every `REPORT_SECONDS` after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ray

from taper_rollout.job.host import HostResources
from taper_rollout.job.training_failed import TrainingFailed

CPUS_PER_RANK = 3
# In addition to the ranks: trainer, the queue's controller, and one for actors that need a CPU only to start.
HELPER_CPUS = 3
# VeRL's default, and what Taper sets on a host without a GPU.
STORAGE_CPUS_GPU, STORAGE_CPUS_CPU = 8, 1
POLL_SECONDS = 1.0
REPORT_SECONDS = 15.0
# A Ray instance started on this machine has all of its resources at once.
LOCAL_SECONDS = 15.0

Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCapacity:
    """What a job needs: `ranks` GPUs on each of `nodes` nodes, their CPUs, and CPUs for VeRL's helpers."""

    ranks: int
    nodes: int

    @property
    def num_gpus(self) -> int:
        """GPUs in total; logical ones if the ranks are CPU processes."""
        return self.ranks * self.nodes

    def num_cpus(self, *, has_real_gpus: bool) -> int:
        """CPUs in total. Ray only counts them and pins nothing to them."""
        storage = STORAGE_CPUS_GPU if has_real_gpus else STORAGE_CPUS_CPU
        return CPUS_PER_RANK * self.num_gpus + HELPER_CPUS + storage

    def lack(self, nodes: Sequence[Resources], free: Resources) -> str:
        """What is missing, as text; empty if nothing is.

        nodes: resources of each node that is alive
        free: unused resources over all nodes
        """
        has_real_gpus = HostResources.of_cluster(nodes).num_gpus > 0
        amounts = {"GPU": self.num_gpus, "CPU": self.num_cpus(has_real_gpus=has_real_gpus)}
        for name, wanted in amounts.items():
            available = sum(node.get(name, 0) for node in nodes)
            if available < wanted:
                return f"the Ray cluster has {available:g} {name}s and the job needs {wanted} ({self})"
        num_fitting = sum(self._fits(node) for node in nodes)
        if num_fitting < self.nodes:
            return (
                f"the Ray cluster has {num_fitting} nodes with {self.ranks} GPUs and "
                f"{CPUS_PER_RANK * self.ranks} CPUs, and the job needs {self.nodes} ({self})"
            )
        for name, wanted in amounts.items():
            if free.get(name, 0) < wanted:
                return (
                    f"{free.get(name, 0):g} {name}s of the Ray cluster are free and the job needs {wanted} "
                    f"({self}); the rest is in use by others"
                )
        return ""

    def _fits(self, node: Resources) -> int:
        """How many times the ranks of one node fit into this node."""
        gpus = int(node.get("GPU", 0)) // self.ranks
        return min(gpus, int(node.get("CPU", 0)) // (CPUS_PER_RANK * self.ranks))

    def __str__(self) -> str:
        nodes = "" if self.nodes == 1 else f" on each of {self.nodes} nodes"
        return f"{self.ranks} rank{'' if self.ranks == 1 else 's'}{nodes}"


def poll_ray() -> tuple[list[Resources], Resources]:
    """Resources of the nodes of the cluster that this process is attached to, and the free ones."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return nodes, ray.available_resources()


def wait_for_capacity(
    capacity: RayCapacity,
    *,
    seconds: float,
    report: Callable[[str], None],
    poll: Callable[[], tuple[list[Resources], Resources]] = poll_ray,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> HostResources:
    """Wait until the cluster has enough free resources. Returns what it has then.

    Raises `TrainingFailed` after `seconds`.

    report: called with a line when the wait starts and every `REPORT_SECONDS`; may raise
    poll: returns the resources of the nodes that are alive, and the free ones
    """
    started = clock()
    reported_at = float("-inf")
    while True:
        nodes, free = poll()
        lack = capacity.lack(nodes, free)
        if not lack:
            return HostResources.of_cluster(nodes)
        now = clock()
        if now - started >= seconds:
            raise TrainingFailed(
                f"{lack}; gave up after {seconds:g} s. Lower spec.training.ranks or nodes, "
                "or use a larger cluster",
                reason="GpusMissing",
            )
        if now - reported_at >= REPORT_SECONDS:
            reported_at = now
            report(f"waiting for resources, {now - started:.0f} of {seconds:.0f} s: {lack}")
        sleep(min(POLL_SECONDS, max(0.0, started + seconds - now)))
