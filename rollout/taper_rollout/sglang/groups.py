"""Communication groups: one coordinator for each degree, built and warmed once, never destroyed.

`TaperGroup` is SGLang's `GroupCoordinator` (read at 0.5.23,
`distributed/parallel_state.py:254`) with two differences. On CPU its all-reduce and
all-gather go through shared memory. And its gathers follow the shard order: SGLang
keeps `ranks` in the order it was given, but `torch.distributed.new_group` sorts them,
so a gather over a group whose shard order is not ascending (degree 4 and up) would
come out permuted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.distributed.parallel_state import GroupCoordinator

from taper_policy.layout import group_of, ranks_by_shard
from taper_rollout.sglang.cpu.collectives import FLAG_BYTES, SharedMemoryGroup, region_bytes
from taper_rollout.shared_memory.segment import Regions, Segment

CONTROL_SLOT_BYTES = 1 << 16


class TaperGroup(GroupCoordinator):
    """A coordinator whose members hold shards in the order of `ranks`."""

    shared: SharedMemoryGroup | None = None
    _gather_order: list[int] | None = None

    def bind(self, shared: SharedMemoryGroup | None) -> None:
        """Use `shared` for CPU tensors, and put device gathers into shard order."""
        self.shared = shared
        ascending = sorted(self.ranks)
        if ascending != list(self.ranks):
            self._gather_order = [ascending.index(rank) for rank in self.ranks]

    def all_reduce(self, input_: torch.Tensor) -> torch.Tensor:
        if self.shared is not None and self.world_size > 1 and input_.is_cpu:
            return self.shared.all_reduce(input_)
        return super().all_reduce(input_)

    def all_gather(
        self,
        input_: torch.Tensor,
        dim: int = -1,
        output_tensor_list: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if self.world_size == 1 or output_tensor_list is not None:
            return super().all_gather(input_, dim, output_tensor_list)
        dim = dim + input_.dim() if dim < 0 else dim
        if self.shared is not None and input_.is_cpu:
            return self.shared.all_gather(input_, dim)
        gathered = super().all_gather(input_, dim)
        if self._gather_order is None:
            return gathered
        parts = gathered.chunk(self.world_size, dim)
        return torch.cat([parts[place] for place in self._gather_order], dim)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupRegions:
    """Where in the replica's segment each group's shared memory lies (degree -> offset of each group)."""

    by_degree: dict[int, tuple[int, ...]]
    control: int

    @classmethod
    def plan(cls, regions: Regions, footprint: int, degrees: Sequence[int]) -> GroupRegions:
        by_degree = {
            degree: tuple(regions.take(region_bytes(degree)) for _ in range(footprint // degree))
            for degree in degrees
            if degree > 1
        }
        return cls(
            by_degree=by_degree,
            control=regions.take(region_bytes(footprint, CONTROL_SLOT_BYTES) + FLAG_BYTES),
        )


def build_groups(
    *,
    footprint: int,
    degrees: Sequence[int],
    rank: int,
    local_rank: int,
    backend: str,
    shared_memory: Segment | None,
    regions: GroupRegions,
    timeout_seconds: float,
    oversubscribed: bool,
) -> dict[int, TaperGroup]:
    """A warmed coordinator of this rank's group at each degree and at 1. Collective over all ranks."""
    built: dict[int, TaperGroup] = {}
    for degree in sorted({1, *degrees}):
        members = [list(ranks_by_shard(group, degree)) for group in range(footprint // degree)]
        group = TaperGroup(
            group_ranks=members,
            local_rank=local_rank,
            torch_distributed_backend=backend,
            use_pynccl=backend == "nccl",
            use_mscclpp=False,
            # SGLang's own kernel registers buffers per group for CUDA graphs, which are off here.
            use_custom_allreduce=False,
            use_torch_symm_mem_all_reduce=False,
            use_hpu_communicator=False,
            use_xpu_communicator=False,
            use_message_queue_broadcaster=False,
            group_name=f"taper_degree{degree}",
        )
        shared = None
        if shared_memory is not None and degree > 1:
            shared = SharedMemoryGroup(
                shared_memory,
                regions.by_degree[degree][group_of(rank, degree)],
                group.ranks,
                rank,
                timeout_seconds=timeout_seconds,
                oversubscribed=oversubscribed,
            )
        group.bind(shared)
        warm(group)
        built[degree] = group
    return built


def control_group(
    segment: Segment,
    regions: GroupRegions,
    footprint: int,
    rank: int,
    *,
    timeout_seconds: float,
    oversubscribed: bool,
) -> SharedMemoryGroup:
    """The group of all ranks of the replica, for barriers inside a switch."""
    return SharedMemoryGroup(
        segment,
        regions.control,
        range(footprint),
        rank,
        timeout_seconds=timeout_seconds,
        slot_bytes=CONTROL_SLOT_BYTES,
        oversubscribed=oversubscribed,
    )


def warm(group: TaperGroup) -> None:
    """Make the group's connections now: the first collective of an NCCL group takes seconds."""
    if group.world_size == 1:
        return
    probe = torch.ones(8, device=group.device)
    total: Any = group.all_reduce(probe.clone())
    if int(total[0]) != group.world_size:
        raise RuntimeError(f"group {group.ranks} does not sum over its members: {total.tolist()}")
    gathered = group.all_gather(torch.full((1,), float(group.rank_in_group), device=group.device), 0)
    if gathered.tolist() != [float(index) for index in range(group.world_size)]:
        raise RuntimeError(f"group {group.ranks} gathers out of shard order: {gathered.tolist()}")
