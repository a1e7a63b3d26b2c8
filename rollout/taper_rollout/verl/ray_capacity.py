"""Waiting until a Ray cluster has room for a job (VeRL 0.9.1).

VeRL asks for each node's ranks in one placement group, a GPU and `CPUS_PER_RANK` CPUs each, and waits for
ever, without a word, for CPUs that never come; for GPUs that are not free it does not wait at all
(`ResourcePoolManager._check_resource_available`). Both are looked at before it is asked.

Invariants (asserted by `tests/rollout/verl/test_ray_capacity.py`):
- the wait ends at its deadline, and says what is there and what is wanted;
- it is told of when it begins, and at least every `TELL_SECONDS` after that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ray

from taper_rollout.job.host import HostResources
from taper_rollout.job.training_failed import TrainingFailed

CPUS_PER_RANK = 3
# Beside the ranks: trainer, the queue's controller, and one for actors that hold none once they are placed.
HELPER_CPUS = 3
# VeRL's default, and what Taper sets on a host without a GPU.
STORAGE_CPUS_GPU, STORAGE_CPUS_CPU = 8, 1
LOOK_SECONDS = 1.0
TELL_SECONDS = 15.0
# Ray that was started here has at once what it will ever have.
LOCAL_SECONDS = 15.0

Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCapacity:
    """What a job needs: `nodes` times `ranks` GPUs of one node, with their CPUs, and VeRL's helpers."""

    ranks: int
    nodes: int

    @property
    def num_gpus(self) -> int:
        """GPUs in all; logical ones where the ranks are CPU processes."""
        return self.ranks * self.nodes

    def num_cpus(self, *, has_real_gpus: bool) -> int:
        """CPUs in all. Ray counts them and pins nothing to them."""
        storage = STORAGE_CPUS_GPU if has_real_gpus else STORAGE_CPUS_CPU
        return CPUS_PER_RANK * self.num_gpus + HELPER_CPUS + storage

    def lack(self, nodes: Sequence[Resources], free: Resources) -> str:
        """What is missing, in words; empty if nothing is.

        nodes: of each node that is alive, what it has
        free: what is not in use, over all nodes
        """
        has_real_gpus = host_of(nodes).num_gpus > 0
        amounts = {"GPU": self.num_gpus, "CPU": self.num_cpus(has_real_gpus=has_real_gpus)}
        for name, wanted in amounts.items():
            there = sum(node.get(name, 0) for node in nodes)
            if there < wanted:
                return f"the Ray cluster has {there:g} {name}s and the job needs {wanted} ({self})"
        places = sum(self._places(node) for node in nodes)
        if places < self.nodes:
            return (
                f"the Ray cluster has {places} nodes with {self.ranks} GPUs and "
                f"{CPUS_PER_RANK * self.ranks} CPUs, and the job needs {self.nodes} ({self})"
            )
        for name, wanted in amounts.items():
            if free.get(name, 0) < wanted:
                return (
                    f"{free.get(name, 0):g} {name}s of the Ray cluster are free and the job needs {wanted} "
                    f"({self}); others are using the rest"
                )
        return ""

    def _places(self, node: Resources) -> int:
        """How many times the ranks of a node fit into this one."""
        gpus = int(node.get("GPU", 0)) // self.ranks
        return min(gpus, int(node.get("CPU", 0)) // (CPUS_PER_RANK * self.ranks))

    def __str__(self) -> str:
        nodes = "" if self.nodes == 1 else f" on each of {self.nodes} nodes"
        return f"{self.ranks} rank{'' if self.ranks == 1 else 's'}{nodes}"


def host_of(nodes: Sequence[Resources]) -> HostResources:
    """What the nodes have together."""
    names = {name for node in nodes for name in node}
    return HostResources.of_cluster({name: sum(node.get(name, 0) for node in nodes) for name in names})


def wait_for_capacity(
    room: RayCapacity,
    *,
    seconds: float,
    tell: Callable[[str], None],
    look: Callable[[], tuple[list[Resources], Resources]],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> HostResources:
    """Wait until the cluster has room; what it has then.

    Raises `TrainingFailed` when it has no room after so many seconds.

    tell: gets a line when the wait begins, and then now and again; it may raise
    look: the nodes that are alive, and what is free
    """
    began = clock()
    told_at = float("-inf")
    while True:
        nodes, free = look()
        lack = room.lack(nodes, free)
        if not lack:
            return host_of(nodes)
        now = clock()
        if now - began >= seconds:
            raise TrainingFailed(
                f"{lack}; waited {seconds:g} s. Lower spec.training.ranks or nodes, or use a larger cluster",
                reason="GpusMissing",
            )
        if now - told_at >= TELL_SECONDS:
            told_at = now
            tell(f"waiting for room, {now - began:.0f} of {seconds:.0f} s: {lack}")
        sleep(min(LOOK_SECONDS, max(0.0, began + seconds - now)))


def look_at_ray() -> tuple[list[Resources], Resources]:
    """The nodes of the cluster that this process is attached to, and what is free."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return nodes, ray.available_resources()
