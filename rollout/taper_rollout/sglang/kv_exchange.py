"""Moving KV between ranks while the layout changes, one layer at a time, in place.

All stacks share one arena, so the new layout's slots may lie where the old layout's
data still is. Per layer, every rank first copies all that it holds of the requests that migrate
into its staging buffer; when all have, each rank reads the head slices that the plan
gives it, from its own and its peers' staging, and writes them to its new slots. Nothing
of a layer is written before all of it has been read, and the extra memory is one layer.

Two staging buffers a rank are used alternately: one barrier a layer is enough, since a
rank that stages layer n+2 has passed the barrier of layer n+1, which each peer enters
only after it has read layer n.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from taper_policy.layout import shard_rows
from taper_rollout.shared_memory.segment import Segment
from taper_rollout.switching.plans import SwitchPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Rows of a source's staging that this rank needs, and where they go.

    `source_rows` count tokens in the source's staging, `heads` index the source's own
    heads, `into_heads` index this rank's new heads, `slots` are its new slots.
    """

    source_rank: int
    source_rows: slice
    heads: slice
    into_heads: slice
    slots: torch.Tensor


class Staging(Protocol):
    """Where a layer lies between being read in the old layout and written in the new one."""

    def stage(self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        """Copy this rank's rows `slots` of a layer out of the arena."""

    def sync(self) -> None:
        """Return when every rank has staged the layer."""

    def read(self, layer: int, source_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A rank's staged K and V of the layer, `[tokens, source heads, dim]`."""


class SharedMemoryStaging:
    """Staging in the replica's segment: peers read it where it lies. `like`: a layer of the old layout."""

    def __init__(
        self,
        segment: Segment,
        offset: int,
        bytes_per_rank: int,
        rank: int,
        plan: SwitchPlan,
        like: torch.Tensor,
        barrier: Callable[[], None],
    ) -> None:
        self._rank, self._barrier = rank, barrier
        _, source_heads, dim = like.shape
        dtype = like.dtype
        self._parts: list[list[torch.Tensor]] = []
        for source, tokens in enumerate(source_tokens(plan)):
            count = 2 * tokens * source_heads * dim
            if 2 * count * dtype.itemsize > bytes_per_rank:
                raise ValueError(f"staging of rank {source} is too small for {tokens} tokens")
            self._parts.append(
                [
                    torch.frombuffer(
                        segment.memory,
                        dtype=dtype,
                        count=max(count, 1),
                        offset=offset + source * bytes_per_rank + parity * (bytes_per_rank // 2),
                    )[:count].view(2, tokens, source_heads, dim)
                    for parity in range(2)
                ]
            )

    def stage(self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        mine = self._parts[self._rank][layer & 1]
        torch.index_select(key, 0, slots, out=mine[0])
        torch.index_select(value, 0, slots, out=mine[1])

    def sync(self) -> None:
        self._barrier()

    def read(self, layer: int, source_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = self._parts[source_rank][layer & 1]
        return part[0], part[1]


class DeviceStaging:
    """Staging in device memory, exchanged by point-to-point messages of a torch.distributed group.

    Works over NCCL and, for tests, gloo. Each rank sends its staged layer to the ranks
    that read from it, and receives into one buffer for each rank it reads from.
    """

    def __init__(self, rank: int, plan: SwitchPlan, like: torch.Tensor) -> None:
        self._rank = rank
        tokens = source_tokens(plan)
        crossing = {
            (kv.source_rank, kv.target_rank) for kv in plan.slices if kv.source_rank != kv.target_rank
        }
        self._readers = sorted(target for source, target in crossing if source == rank)
        self._mine = like.new_empty((2, tokens[rank], *like.shape[1:]))
        self._received = {
            source: like.new_empty((2, tokens[source], *like.shape[1:]))
            for source in sorted(source for source, target in crossing if target == rank)
        }

    def stage(self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        torch.index_select(key, 0, slots, out=self._mine[0])
        torch.index_select(value, 0, slots, out=self._mine[1])

    def sync(self) -> None:
        distributed = torch.distributed
        messages = [distributed.P2POp(distributed.isend, self._mine, reader) for reader in self._readers]
        messages += [
            distributed.P2POp(distributed.irecv, buffer, source) for source, buffer in self._received.items()
        ]
        for work in distributed.batch_isend_irecv(messages) if messages else ():
            work.wait()

    def read(self, layer: int, source_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = self._mine if source_rank == self._rank else self._received[source_rank]
        return part[0], part[1]


def source_rows(plan: SwitchPlan) -> dict[str, slice]:
    """Where the tokens of each request that migrates lie in its group's staging: in canonical order."""
    ends: dict[int, int] = {}
    rows = {}
    for request in plan.migrated:
        start = ends.get(request.group, 0)
        ends[request.group] = start + request.num_tokens
        rows[request.id] = slice(start, ends[request.group])
    return rows


def source_tokens(plan: SwitchPlan) -> list[int]:
    """Tokens that each rank stages."""
    totals = [0] * (plan.footprint // plan.from_degree)
    for request in plan.migrated:
        totals[request.group] += request.num_tokens
    return [totals[rank // plan.from_degree] for rank in range(plan.footprint)]


def picks(plan: SwitchPlan, rank: int, new_slots: dict[str, torch.Tensor]) -> list[Pick]:
    """What `rank` reads; requests without new slots are left out (no room: they will be recomputed)."""
    rows = source_rows(plan)
    mine = shard_rows(rank, plan.to_degree, plan.num_kv_heads)
    chosen = []
    for kv in plan.slices:
        if kv.target_rank != rank or kv.request not in new_slots:
            continue
        theirs = shard_rows(kv.source_rank, plan.from_degree, plan.num_kv_heads)
        first, into = kv.head_start - theirs.start, kv.head_start - mine.start
        chosen.append(
            Pick(
                source_rank=kv.source_rank,
                source_rows=rows[kv.request],
                heads=slice(first, first + kv.head_count),
                into_heads=slice(into, into + kv.head_count),
                slots=new_slots[kv.request],
            )
        )
    return merge(chosen)


def merge(chosen: list[Pick]) -> list[Pick]:
    """Join picks of neighbouring rows with equal heads, so that a layer is a few large copies."""
    merged: list[Pick] = []
    for pick in sorted(chosen, key=lambda p: (p.source_rank, p.heads.start, p.source_rows.start)):
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.source_rank, last.heads, last.into_heads)
            == (pick.source_rank, pick.heads, pick.into_heads)
            and last.source_rows.stop == pick.source_rows.start
        ):
            merged[-1] = dataclasses.replace(
                last,
                source_rows=slice(last.source_rows.start, pick.source_rows.stop),
                slots=torch.cat([last.slots, pick.slots]),
            )
        else:
            merged.append(pick)
    return merged


def exchange(
    staging: Staging,
    chosen: list[Pick],
    old_slots: torch.Tensor,
    old_layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
    new_layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Move every layer. `old_layers` and `new_layers` are (K, V) views of the same arena."""
    for layer, (old, new) in enumerate(zip(old_layers, new_layers, strict=True)):
        staging.stage(layer, *old, old_slots)
        staging.sync()
        for pick in chosen:
            for source, target in zip(staging.read(layer, pick.source_rank), new, strict=True):
                _write(target, pick, source[pick.source_rows, pick.heads])


def _write(target: torch.Tensor, pick: Pick, part: torch.Tensor) -> None:
    if part.shape[1] == target.shape[1]:
        target.index_copy_(0, pick.slots, part)
    else:
        target[:, pick.into_heads].index_copy_(0, pick.slots, part)
