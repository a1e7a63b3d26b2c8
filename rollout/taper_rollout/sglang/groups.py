"""Communication groups: one coordinator for each degree, built and warmed once, never destroyed.

`TaperGroup` is SGLang's `GroupCoordinator` (read at 0.5.23,
`distributed/parallel_state.py:254`) with two differences. On CPU its all-reduce and
all-gather go through shared memory. And its gathers follow the shard order: SGLang
keeps `ranks` in the order it was given, but `torch.distributed.new_group` sorts them,
so a gather over a group whose shard order is not ascending (degree 4 and up) would
come out permuted.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sglang.srt.distributed.parallel_state import GroupCoordinator

from taper_policy.layout import group_of, ranks_by_shard
from taper_rollout.sglang.cpu.collectives import SharedMemoryGroup
from taper_rollout.sglang.engine_settings import EngineSettings
from taper_rollout.shared_memory.segment import Segment


class TaperGroup(GroupCoordinator):
    """A coordinator whose members hold shards in the order of `ranks`. `shared` is for CPU tensors."""

    shared: SharedMemoryGroup | None = None

    @functools.cached_property
    def _gather_order(self) -> list[int] | None:
        """Places of the ranks among those that torch gathers; None where these are in shard order."""
        ascending = sorted(self.ranks)
        return None if ascending == self.ranks else [ascending.index(rank) for rank in self.ranks]

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


def build_groups(
    settings: EngineSettings,
    segment: Segment,
    offsets: Mapping[int, Sequence[int]],
    *,
    rank: int,
    local_rank: int,
) -> dict[int, TaperGroup]:
    """A warmed coordinator of this rank's group at each degree and at 1. Collective over all ranks.

    `offsets`: where each group's region lies in `segment`, by degree above 1; for CPU ranks.
    """
    on_cpu = settings.device == "cpu"
    built: dict[int, TaperGroup] = {}
    for degree in sorted({1, *settings.degrees}):
        members = [list(ranks_by_shard(group, degree)) for group in range(settings.footprint // degree)]
        group = TaperGroup(
            group_ranks=members,
            local_rank=local_rank,
            torch_distributed_backend="gloo" if on_cpu else "nccl",
            use_pynccl=not on_cpu,
            use_mscclpp=False,
            # SGLang's own kernel registers buffers per group for CUDA graphs, which are off here.
            use_custom_allreduce=False,
            use_torch_symm_mem_all_reduce=False,
            use_hpu_communicator=False,
            use_xpu_communicator=False,
            use_message_queue_broadcaster=False,
            group_name=f"taper_degree{degree}",
        )
        if on_cpu and degree > 1:
            group.shared = SharedMemoryGroup(
                segment,
                offsets[degree][group_of(rank, degree)],
                group.ranks,
                rank,
                timeout_seconds=settings.collective_timeout_seconds,
                oversubscribed=settings.oversubscribed,
            )
        warm(group)
        built[degree] = group
    return built


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
