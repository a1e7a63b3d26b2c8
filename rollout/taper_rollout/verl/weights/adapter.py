"""VeRL's interface to the rollout in each trainer rank (VeRL 0.9.1): sleep, wake, new weights.

After each update every trainer rank gets the full tensors of the model, one after the other, and sends
them to its partner in the replica. VeRL gathers them with a collective, so every rank must consume all
of them. Only the first rank of the footprint calls the replica's server.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from typing import Any

import ray
import torch
from verl.utils.device import is_support_ipc
from verl.workers.rollout.base import BaseRollout

from taper_rollout.verl.replica_name import replica_name
from taper_rollout.verl.weights.buckets import send_buckets
from taper_rollout.verl.weights.delivery import SOURCE, rank_address, transfer_arguments


class WeightAdapter(BaseRollout):
    """The adapter of one trainer rank. In workers of a rollout with its own ranks it is not used."""

    def __init__(
        self, config: Any, model_config: Any, device_mesh: Any = None, replica_rank: int = -1
    ) -> None:
        super().__init__(config, model_config, device_mesh)
        self.num_ranks = self.config.tensor_model_parallel_size
        rank = int(os.environ["RANK"])  # set by VeRL's worker group, as for its own rollouts
        self.replica_rank = rank // self.num_ranks if replica_rank == -1 else replica_rank
        self.rollout_rank = rank % self.num_ranks
        self.is_leader_rank = self.rollout_rank == 0
        self._server: Any = None
        self._channel = ""
        self._num_transfers = 0  # the same in all ranks: VeRL updates them together

    async def _connect(self) -> Any:
        if self._server is None:
            self._server = ray.get_actor(replica_name(self.replica_rank))
            self._channel = await self._server.get_weight_channel.remote()
        return self._server

    async def resume(self, tags: list[str]) -> None:
        """Allocate what `release` released: "weights", "kv_cache"."""
        server = await self._connect()
        if self.is_leader_rank:
            await server.resume.remote(tags)

    async def release(self) -> None:
        server = await self._connect()
        if self.is_leader_rank:
            await server.sleep.remote()

    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]] | AsyncIterable[tuple[str, torch.Tensor]],
        global_steps: int | None = None,
        wire_format: str = "named_tensors",
        **settings: Any,
    ) -> None:
        """Send the full tensors to this rank's partner. On the leader, returns when all ranks use them.

        Raises `NotImplementedError` for deltas and LoRA adapters, `TransferFailed` if the partner is
        gone, and on the leader the replica's own error instead, if it has one.
        """
        if wire_format != "named_tensors":
            raise NotImplementedError(
                f"wire_format {wire_format!r} is not supported: Taper needs full tensors"
            )
        if settings.get("peft_config") is not None:
            raise NotImplementedError(
                "LoRA adapters are not supported: Taper needs full tensors; set model.lora.merge=true"
            )
        server = await self._connect()
        shared_memory = not is_support_ipc()
        self._num_transfers += 1
        update = None
        if self.is_leader_rank:
            arguments = transfer_arguments(
                self._channel, self._num_transfers, self.num_ranks, shared_memory=shared_memory
            )
            update = server.update_weights.remote(source=SOURCE, arguments=arguments, version=global_steps)

        def check() -> None:
            """Raise the replica's own error, if it has failed already."""
            if update is not None and ray.wait([update], timeout=0)[0]:
                ray.get(update)

        await send_buckets(
            weights,
            address=rank_address(self._channel, self._num_transfers, self.rollout_rank),
            bucket_mebibytes=int(self.config.checkpoint_engine.update_weights_bucket_megabytes),
            shared_memory=shared_memory,
            check=check,
        )
        if update is not None:
            await update
